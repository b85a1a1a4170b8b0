package placeholder

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Resolve replaces the placeholders of a configuration value, such as
// {env.NAME} and {file./path}, and leaves every other byte as it is written:
// Caddy's own replacer would also eat the braces of ^[0-9a-f]{32}$ and of {}. A
// placeholder that is unknown or empty is an error: a secret that is missing
// must stop a deploy, not open a gate. The error names the placeholder and
// never its value.
func Resolve(value string) (string, error) {
	var resolved strings.Builder
	for {
		before, placeholder, after, found := next(value)
		resolved.WriteString(before)
		if !found {
			return resolved.String(), nil
		}
		found = false
		if value, known := caddy.NewReplacer().Get(placeholder[1 : len(placeholder)-1]); known {
			text := strings.TrimSpace(caddy.ToString(value)) // files end with a line's end
			resolved.WriteString(text)
			found = text != ""
		}
		if !found {
			return "", fmt.Errorf("%s is empty or cannot be read; set the variable or check the path of the file", placeholder)
		}
		value = after
	}
}

// next finds the first placeholder of a value.
func next(value string) (before, placeholder, after string, found bool) {
	for start := 0; ; start++ {
		brace := strings.IndexByte(value[start:], '{')
		if brace < 0 {
			return value, "", "", false
		}
		start += brace
		inside, rest, closed := strings.Cut(value[start+1:], "}")
		if closed && isName(inside) {
			return value[:start], value[start : start+len(inside)+2], rest, true
		}
	}
}

// isName says whether it is known when the configuration is loaded what stands
// between the braces. Neither JSON nor a regular expression looks like that.
func isName(inside string) bool {
	kind, name, _ := strings.Cut(inside, ".")
	return (kind == "env" || kind == "file" || kind == "system") && name != "" && !strings.ContainsAny(name, "{\"\n")
}

// Has says whether a placeholder that Resolve would replace stands in any of
// the values. What they are is known when the configuration is loaded.
func Has(values ...string) bool {
	for _, value := range values {
		if _, _, _, found := next(value); found {
			return true
		}
	}
	return false
}

// Is says whether the value is one placeholder of any kind and nothing else.
func Is(value string) bool {
	return strings.HasPrefix(value, "{") && strings.HasSuffix(value, "}") && !strings.ContainsAny(value, "\" \n\t")
}
