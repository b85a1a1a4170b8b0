package placeholder

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/metricsgate/metricsgate/caddymodule/internal/located"
)

// Copy returns a copy of a configuration, all of whose texts are resolved,
// wherever they stand: in structs, lists, maps and behind pointers. What the
// configuration itself holds stays as it is written. Fields that are not
// exported are copied as they are.
//
// In errors a field is called as in JSON or, where it has the tag word, by
// that; an empty one adds no word. The tag placeholder:"refused" is for words
// out of a closed set, which a placeholder cannot stand for.
func Copy[T any](config *T) (*T, error) {
	resolved := new(T)
	err := copyInto(reflect.ValueOf(resolved).Elem(), reflect.ValueOf(config).Elem(), place{})
	return resolved, err
}

// place is where in a configuration a value stands: the words that lead to it
// and, until the next word, which of several blocks it is in.
type place struct {
	words  []string
	i, all int
}

// in is the place behind one more word.
func (p place) in(word string) place {
	if word == "" {
		return p
	}
	return place{words: append(slices.Clone(p.words), located.Numbered(word, p.i, p.all))}
}

// refuse is for texts that are never resolved.
func (p place) refuse(text string) error {
	if !Has(text) {
		return nil
	}
	return located.At(fmt.Errorf("a placeholder cannot stand here; write the value itself instead of %s", text), p.words...)
}

// copyInto resolves a value of any kind.
func copyInto(to, from reflect.Value, where place) error {
	to.Set(from)
	switch from.Kind() {
	case reflect.String:
		text, err := Resolve(from.String())
		to.SetString(text)
		return located.At(err, where.words...)
	case reflect.Pointer:
		if !from.IsNil() {
			to.Set(reflect.New(from.Type().Elem()))
			return copyInto(to.Elem(), from.Elem(), where)
		}
	case reflect.Struct:
		return copyFields(to, from, where)
	case reflect.Slice:
		if text, isJSON := reflect.TypeAssert[json.RawMessage](from); isJSON {
			return where.refuse(string(text)) // the value would have to be quoted, or be JSON itself
		}
		return copyElements(to, from, where)
	case reflect.Map:
		return copyMap(to, from, where)
	default: // numbers and the like hold no text
	}
	return nil
}

func copyFields(to, from reflect.Value, where place) error {
	var problems []error
	for i := range from.NumField() {
		field := from.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		word, named := field.Tag.Lookup("word")
		if !named {
			word, _, _ = strings.Cut(field.Tag.Get("json"), ",")
		}
		if inner := where.in(word); field.Tag.Get("placeholder") == "refused" {
			problems = append(problems, inner.refuse(from.Field(i).String()))
		} else {
			problems = append(problems, copyInto(to.Field(i), from.Field(i), inner))
		}
	}
	return errors.Join(problems...)
}

func copyElements(to, from reflect.Value, where place) error {
	if from.IsNil() {
		return nil
	}
	var problems []error
	to.Set(reflect.MakeSlice(from.Type(), from.Len(), from.Len()))
	for i := range from.Len() {
		element := from.Index(i)
		switch {
		case element.Kind() == reflect.Struct:
			where.i, where.all = i, from.Len()
		case element.Kind() == reflect.String && element.Len() == 0:
			problems = append(problems, located.At(errors.New("is empty; write a value, {env.NAME} or {file./path}"), where.words...))
		}
		problems = append(problems, copyInto(to.Index(i), element, where))
	}
	return errors.Join(problems...)
}

// copyMap resolves the values; keys are names, which have to be known.
func copyMap(to, from reflect.Value, where place) error {
	if from.IsNil() {
		return nil
	}
	var problems []error
	to.Set(reflect.MakeMapWithSize(from.Type(), from.Len()))
	for key, value := range from.Seq2() {
		resolved := reflect.New(value.Type()).Elem()
		problems = append(problems, where.refuse(key.String()), copyInto(resolved, value, where.in(key.String())))
		to.SetMapIndex(key, resolved)
	}
	return errors.Join(problems...)
}
