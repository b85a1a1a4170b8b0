package browser

import (
	"embed"
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/language"
)

// The files of the folder locales are the languages of the preference page, each
// named by its tag. All there is to do for another one is to put it there.
//
//go:embed locales/*.json
var localeFiles embed.FS

// locale is one language: its texts by key. They are plain text, and what
// they have in braces is filled in.
type locale struct {
	tag  language.Tag
	text map[string]string
}

// locales are all languages there are. English is the first, since that is
// the one for people who ask for none of them.
var locales, localeMatcher = loadLocales()

func loadLocales() ([]locale, language.Matcher) {
	files, err := localeFiles.ReadDir("locales")
	if err != nil {
		panic(err) // it is inside the binary
	}
	all := make([]locale, 1, len(files)+1)
	for _, file := range files {
		name, _ := strings.CutSuffix(file.Name(), ".json")
		one := locale{tag: language.MustParse(name)}
		content, err := localeFiles.ReadFile(path.Join("locales", file.Name()))
		if err == nil {
			err = json.Unmarshal(content, &one.text)
		}
		if err != nil {
			panic(fmt.Errorf("locales/%s: %w", file.Name(), err))
		}
		if one.tag == language.English {
			all[0] = one
			continue
		}
		all = append(all, one)
	}
	tags := make([]language.Tag, len(all))
	for i, one := range all {
		tags[i] = one.tag
	}
	return all, language.NewMatcher(tags)
}

// localeFor returns the language that suits best what an Accept-Language
// header says.
func localeFor(accept string) locale {
	_, i := language.MatchStrings(localeMatcher, accept)
	return locales[i]
}

// date writes a day, in UTC, as the language does.
func (l locale) date(t time.Time) string {
	t = t.UTC()
	return strings.NewReplacer(
		"{day}", strconv.Itoa(t.Day()),
		"{month}", strings.Split(l.text["months"], " ")[t.Month()-1],
		"{year}", strconv.Itoa(t.Year()),
	).Replace(l.text["date"])
}
