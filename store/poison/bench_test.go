package poison

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// sinkInt keeps the compiler from proving the sections empty.
var sinkInt int

// rawLock is what one writes without this package.
type rawLock struct {
	mu sync.RWMutex
	v  int
}

//go:noinline
func (r *rawLock) read(f func(*int)) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	f(&r.v)
}

//go:noinline
func (r *rawLock) write(f func(*int) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return f(&r.v)
}

// paddedLock is Guarded.Read with the poison flag on a cache line of its own.
type paddedLock struct {
	mu sync.RWMutex
	_  [64]byte
	st atomic.Pointer[state]
	_  [64]byte
	v  int
}

//go:noinline
func (p *paddedLock) read(f func(*int)) (*Event, error) {
	p.mu.RLock()
	if s := p.st.Load(); s != nil && s.poison != nil {
		p.mu.RUnlock()
		return s.poison.ev, nil
	}
	done := false
	defer func() {
		p.mu.RUnlock()
		if !done {
			sinkInt++
		}
	}()
	f(&p.v)
	done = true
	return nil, nil
}

func benchGuarded() *Guarded[int] {
	return New(NewRegistry(RegistryOptions{}), "bench", LockOptions{}, 0)
}

// maxRatio is what a section may cost against a bare RWMutex with defer.
const maxRatio = 1.2

// compare measures turn about, in one run and on the same machine state, what a
// section costs with a bare RWMutex and with a Guarded. It reports the best round of
// each, and their ratio, and fails when that is more than maxRatio.
func compare(b *testing.B, raw, guarded func(n int)) {
	const chunk = 20_000
	perSection := func(f func(int)) float64 {
		start := time.Now()
		f(chunk)
		return float64(time.Since(start).Nanoseconds()) / chunk
	}
	bestRaw, bestGuarded := perSection(raw), perSection(guarded)
	b.ReportAllocs()
	for b.Loop() {
		bestRaw = min(bestRaw, perSection(raw))
		bestGuarded = min(bestGuarded, perSection(guarded))
	}
	b.ReportMetric(bestRaw, "ns/raw")
	b.ReportMetric(bestGuarded, "ns/guarded")
	b.ReportMetric(bestGuarded/bestRaw, "ratio")
	if ratio := bestGuarded / bestRaw; ratio > maxRatio && !orderChecks {
		b.Errorf("a section costs %.2f times one with a bare RWMutex, want at most %.1f", ratio, maxRatio)
	}
}

func BenchmarkReadAgainstRWMutex(b *testing.B) {
	r, g := &rawLock{}, benchGuarded()
	compare(b, func(n int) {
		for range n {
			r.read(func(v *int) { sinkInt += *v })
		}
	}, func(n int) {
		for range n {
			_, _ = g.Read("bench", func(v *int) { sinkInt += *v })
		}
	})
}

func BenchmarkWriteAgainstRWMutex(b *testing.B) {
	r, g := &rawLock{}, benchGuarded()
	compare(b, func(n int) {
		for range n {
			_ = r.write(func(v *int) error { *v++; return nil })
		}
	}, func(n int) {
		for range n {
			_ = g.Write("bench", func(v *int) error { *v++; return nil })
		}
	})
}

func BenchmarkParallelReadRWMutex(b *testing.B) {
	r := &rawLock{}
	b.RunParallel(func(pb *testing.PB) {
		for sum := 0; pb.Next(); {
			r.read(func(v *int) { sum += *v })
		}
	})
}

func BenchmarkParallelReadGuarded(b *testing.B) {
	g := benchGuarded()
	b.RunParallel(func(pb *testing.PB) {
		for sum := 0; pb.Next(); {
			_, _ = g.Read("bench", func(v *int) { sum += *v })
		}
	})
}

func BenchmarkParallelReadPadded(b *testing.B) {
	p := &paddedLock{}
	b.RunParallel(func(pb *testing.PB) {
		for sum := 0; pb.Next(); {
			_, _ = p.read(func(v *int) { sum += *v })
		}
	})
}

// One write to 15 reads, all goroutines on one lock.
func BenchmarkParallelMixedRWMutex(b *testing.B) {
	r := &rawLock{}
	b.RunParallel(func(pb *testing.PB) {
		for i, sum := 0, 0; pb.Next(); i++ {
			if i%16 == 0 {
				_ = r.write(func(v *int) error { *v++; return nil })
				continue
			}
			r.read(func(v *int) { sum += *v })
		}
	})
}

func BenchmarkParallelMixedGuarded(b *testing.B) {
	g := benchGuarded()
	b.RunParallel(func(pb *testing.PB) {
		for i, sum := 0, 0; pb.Next(); i++ {
			if i%16 == 0 {
				_ = g.Write("bench", func(v *int) error { *v++; return nil })
				continue
			}
			_, _ = g.Read("bench", func(v *int) { sum += *v })
		}
	})
}

func BenchmarkAtomically(b *testing.B) {
	r := NewRegistry(RegistryOptions{})
	f := r.NewFamily(FamilyOptions{Name: "inode"})
	x, y, z := NewIn(f, 1, 0), NewIn(f, 2, 0), NewIn(f, 3, 0)
	write, read := []Locker{z, x}, []Locker{y}
	b.ReportAllocs()
	for b.Loop() {
		_ = Atomically("bench", write, read, func(s *Section) error {
			*Held(s, x) += *Held(s, y)
			*Held(s, z)++
			return nil
		})
	}
}

func BenchmarkRefusedWrite(b *testing.B) {
	g := benchGuarded()
	g.Poison("bench", Manual, "")
	b.ReportAllocs()
	for b.Loop() {
		_ = g.Write("bench", func(v *int) error { *v++; return nil })
	}
}

func BenchmarkRecoveredRead(b *testing.B) {
	g := benchGuarded()
	g.Poison("bench", Manual, "")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = g.Read("bench", func(v *int) { sinkInt += *v })
	}
}

// What it costs to poison a lock and to reset it: the stack is most of it.
func BenchmarkPoisonAndReset(b *testing.B) {
	g := benchGuarded()
	b.ReportAllocs()
	for b.Loop() {
		_ = g.Write("bench", func(*int) error { panic("bench") })
		_ = g.Reset(g.Event().Gen, ResetOptions{}, func(old *int) (int, error) { return *old, nil })
	}
}

// A watchdog round over the locks of 100,000 inodes.
func BenchmarkWatchRound100k(b *testing.B) {
	var locks []*Guarded[int]
	r := NewRegistry(RegistryOptions{})
	f := r.NewFamily(FamilyOptions{Name: "inode", Each: func(yield func(Locker) bool) {
		for _, l := range locks {
			if !yield(l) {
				return
			}
		}
	}})
	for id := range uint64(100_000) {
		locks = append(locks, NewIn(f, id, 0))
	}
	r.watch.start()
	defer r.watch.stop()
	for b.Loop() {
		r.watchRound(time.Now(), WatchOptions{}.withDefaults())
	}
}
