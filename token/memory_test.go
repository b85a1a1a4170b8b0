package token

import (
	"encoding/binary"
	"testing"
	"time"
)

func numberedDigest(n int) (d Digest) {
	binary.BigEndian.PutUint64(d[:], uint64(n))
	return d
}

// TestMemoryIsBounded fills memories of every size many times over, while one
// verdict stays in use.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for size := range 40 {
		m := newMemory(size)
		used := numberedDigest(0)
		for n := range 10 * size {
			m.put(numberedDigest(n), &verdict{until: now.Add(time.Minute)})
			if _, ok := m.get(used, now); !ok && size > 3 { // there is room for it
				t.Fatalf("a memory of %d forgot what is in use, after %d", size, n)
			}
			if held := m.Len(); held > max(2, size) {
				t.Fatalf("a memory of %d holds %d", size, held)
			}
			for recent := max(0, n-size/2+2); recent <= n; recent++ {
				if _, ok := m.get(numberedDigest(recent), now); !ok {
					t.Fatalf("a memory of %d forgot %d at %d", size, recent, n)
				}
			}
		}
	}
}

func TestMemoryEnds(t *testing.T) {
	t.Parallel()
	now := time.Now()
	m := newMemory(10)
	m.put(Digest{}, &verdict{until: now.Add(time.Minute)})
	for _, test := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {time.Minute - 1, true}, {time.Minute, false}} {
		if _, ok := m.get(Digest{}, now.Add(test.after)); ok != test.want {
			t.Errorf("after %v: %v", test.after, ok)
		}
	}
	if _, ok := m.get(numberedDigest(1), time.Time{}); ok {
		t.Error("what was never put is found")
	}
}
