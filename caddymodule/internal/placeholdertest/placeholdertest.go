// Package placeholdertest goes through all texts of a module's configuration,
// for the tests of modules: every one takes placeholders, or refuses them.
package placeholdertest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// Run puts a placeholder into one text after the other of a configuration that
// valid makes, and provisions it. Where the placeholder stands for nothing, the
// module must refuse it and name it. Where it stands for something, the options
// that provision returns must hold that, and the configuration the placeholder;
// or the module refuses what is written there.
func Run[M any](t *testing.T, valid func() *M, provision func(*M) (options *M, err error)) {
	t.Helper()
	const meaning = "what-it-stands-for"
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "text"), []byte(meaning+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good, bad := "{file."+filepath.Join(folder, "text")+"}", "{file."+filepath.Join(folder, "missing")+"}"
	texts := textsOf(reflect.TypeFor[M]())
	if len(texts) < 10 {
		t.Fatalf("only %d texts were found", len(texts))
	}
	for _, text := range texts {
		module := valid()
		text.set(reflect.ValueOf(module).Elem(), bad)
		if _, err := provision(module); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: a placeholder that stands for nothing is not refused by its name: %v", text.name, err)
		}
		module = valid()
		text.set(reflect.ValueOf(module).Elem(), good)
		options, err := provision(module)
		if err != nil && strings.Contains(err.Error(), good) {
			continue // it is refused by its name
		}
		if options == nil {
			t.Errorf("%s: nothing is resolved: %v", text.name, err)
			continue
		}
		if got := text.get(reflect.ValueOf(options).Elem()); got != meaning {
			t.Errorf("%s: %q was made of the placeholder: %v", text.name, got, err)
		}
		if got := text.get(reflect.ValueOf(module).Elem()); got != good {
			t.Errorf("%s: the configuration itself says %q now", text.name, got)
		}
	}
}

// text is one text of a configuration.
type text struct {
	name string
	set  func(in reflect.Value, to string)
	get  func(in reflect.Value) string
}

// textsOf finds all texts of a type: in structs, lists and maps and behind
// pointers, the keys of maps included.
func textsOf(in reflect.Type) []text {
	if in == reflect.TypeFor[json.RawMessage]() {
		return []text{{
			set: func(in reflect.Value, to string) { in.SetBytes([]byte(`"` + to + `"`)) },
			get: func(in reflect.Value) string { return string(in.Bytes()) },
		}}
	}
	switch in.Kind() {
	case reflect.String:
		return []text{{set: func(in reflect.Value, to string) { in.SetString(to) }, get: reflect.Value.String}}
	case reflect.Pointer:
		return within("", textsOf(in.Elem()), func(in reflect.Value) reflect.Value {
			if in.IsNil() {
				in.Set(reflect.New(in.Type().Elem()))
			}
			return in.Elem()
		})
	case reflect.Slice, reflect.Array:
		return within("[]", textsOf(in.Elem()), func(in reflect.Value) reflect.Value {
			if in.Len() == 0 {
				in.Set(reflect.MakeSlice(in.Type(), 1, 1))
			}
			return in.Index(0)
		})
	case reflect.Map:
		return textsOfMap(in)
	case reflect.Struct:
		var all []text
		for i := range in.NumField() {
			if field := in.Field(i); field.IsExported() {
				all = append(all, within("."+field.Name, textsOf(field.Type), func(in reflect.Value) reflect.Value { return in.Field(i) })...)
			}
		}
		return all
	default: // numbers and the like hold no text
	}
	return nil
}

// within finds the texts of a part in the whole.
func within(name string, texts []text, part func(reflect.Value) reflect.Value) []text {
	whole := make([]text, len(texts))
	for i, inner := range texts {
		whole[i] = text{
			name: name + inner.name,
			set:  func(in reflect.Value, to string) { inner.set(part(in), to) },
			get:  func(in reflect.Value) string { return inner.get(part(in)) },
		}
	}
	return whole
}

func textsOfMap(in reflect.Type) []text {
	inside := textsOf(in.Elem())
	all := append(make([]text, 0, 1+len(inside)), text{
		name: "[key]",
		set: func(in reflect.Value, to string) {
			in.Set(reflect.MakeMap(in.Type()))
			in.SetMapIndex(reflect.ValueOf(to), reflect.Zero(in.Type().Elem()))
		},
		get: func(in reflect.Value) string { return in.MapKeys()[0].String() },
	})
	for _, inner := range inside {
		all = append(all, text{
			name: "[value]" + inner.name,
			set: func(in reflect.Value, to string) {
				value := reflect.New(in.Type().Elem()).Elem()
				inner.set(value, to)
				in.Set(reflect.MakeMap(in.Type()))
				in.SetMapIndex(reflect.ValueOf("key"), value)
			},
			get: func(in reflect.Value) string { return inner.get(in.MapIndex(reflect.ValueOf("key"))) },
		})
	}
	return all
}
