package placeholder

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Resolve replaces the placeholders of a configuration value, such as
// {env.NAME} and {file./path}. A placeholder that is unknown or empty is an
// error: a secret that is missing must stop a deploy, not open a gate.
// The error names the placeholder and never its value.
func Resolve(repl *caddy.Replacer, value string) (string, error) {
	if value == "" {
		return "", errors.New("is empty; write a value, {env.NAME} or {file./path}")
	}
	resolved, err := repl.ReplaceOrErr(value, true, true)
	if err != nil {
		return "", fmt.Errorf("%s is empty or cannot be read; set the variable or check the path of the file", In(value))
	}
	if resolved = strings.TrimSpace(resolved); resolved == "" {
		return "", fmt.Errorf("%s holds nothing but white space", In(value))
	}
	return resolved, nil
}

// ResolveAll resolves every value of a list and returns what is wrong with any.
func ResolveAll(repl *caddy.Replacer, values []string) ([]string, error) {
	all, problems := make([]string, len(values)), make([]error, len(values))
	for i, value := range values {
		all[i], problems[i] = Resolve(repl, value)
	}
	return all, errors.Join(problems...)
}

// In returns what an error may say of a configuration value: the
// placeholder it consists of, but never text that could be a secret itself.
func In(value string) string {
	if Is(value) {
		return value
	}
	return "a placeholder in the value"
}

// Is says whether the value is one placeholder and nothing else.
func Is(value string) bool {
	return strings.HasPrefix(value, "{") && strings.HasSuffix(value, "}") && !strings.ContainsAny(value, "\" \n\t")
}
