package profileclient

import (
	"reflect"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// TestETagNumbers: a number stands for its ETag, or for nothing; those that are
// shared by all are never forgotten, and no more are held than there is room.
func TestETagNumbers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		room := rapid.IntRange(1, 5).Draw(t, "room")
		e := newETags(room)
		given := map[uint64]string{}
		if e.text(0) != "" {
			t.Fatal("0 is an ETag")
		}
		distinct := map[string]bool{}
		for _, n := range rapid.SliceOf(rapid.IntRange(0, 9)).Draw(t, "accounts") {
			text := strconv.Itoa(n)
			distinct[text] = true
			number := e.number(text)
			if other, taken := given[number]; number == 0 || taken && other != text {
				t.Fatalf("%q has the number %d of %q", text, number, other)
			}
			given[number] = text
			held := 0
			for number, text := range given {
				switch e.text(number) {
				case text:
					held++
				case "":
				default:
					t.Fatalf("%d is %q and was %q", number, e.text(number), text)
				}
			}
			if e.text(number) != text || held > room || len(distinct) <= room && held != len(distinct) {
				t.Fatalf("%d of %d are held, with room for %d", held, len(distinct), room)
			}
		}
	})
}

// TestEntriesHoldNoPointers: with a pointer in them, the collector reads every
// one of them in each of its rounds, which cost a gate with ten thousand users
// cached 7 % more of the processor.
func TestEntriesHoldNoPointers(t *testing.T) {
	t.Parallel()
	for field := range reflect.TypeFor[entry]().Fields() {
		if kind := field.Type.Kind(); kind < reflect.Bool || kind > reflect.Float64 {
			t.Errorf("%s is a %v", field.Name, kind)
		}
	}
}
