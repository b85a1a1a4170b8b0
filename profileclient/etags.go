package profileclient

import "sync"

// etags numbers the ETags that are remembered, so that an entry holds a number
// in the place of a pointer: what has no pointers, the garbage collector need
// not read. Most servers hash the value, so that all accounts share one ETag
// or a few.
//
// It holds so many at most. Where a server has more, because each of its
// accounts has one of its own, all are forgotten at once: a write-back that
// finds its ETag gone waits for the next answer.
type etags struct {
	room int

	mu      sync.Mutex
	numbers map[string]uint64
	texts   []string // the first one's number is forgotten + 1

	forgotten uint64
}

func newETags(room int) *etags { return &etags{room: room, numbers: map[string]uint64{}} }

// number returns the number of an ETag, which is never 0.
func (e *etags) number(text string) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if number, known := e.numbers[text]; known {
		return number
	}
	if len(e.texts) == e.room {
		e.forgotten += uint64(e.room) //nolint:gosec // never negative
		e.texts = nil
		clear(e.numbers)
	}
	e.texts = append(e.texts, text)
	number := e.forgotten + uint64(len(e.texts))
	e.numbers[text] = number
	return number
}

// text returns the ETag of a number, or nothing where it is forgotten or there
// was none.
func (e *etags) text(number uint64) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if number <= e.forgotten {
		return ""
	}
	return e.texts[number-e.forgotten-1]
}
