package store

import (
	"errors"
	"fmt"
	"log/slog"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
	"engramfs/store/poison"

	"pgregory.net/rapid"
)

// lockBench is a lock table on an engine of its own, which can be reopened.
type lockBench struct {
	*LockTable
	eng   meta.Engine
	reg   *poison.Registry
	dir   string
	fault func(point string) error
}

func newLockBench(t *testing.T) *lockBench {
	t.Helper()
	b := &lockBench{dir: t.TempDir()}
	b.open(t)
	t.Cleanup(b.shut)
	return b
}

func (b *lockBench) open(t *testing.T) {
	t.Helper()
	eng, err := pebble.Open(b.dir, pebble.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	b.eng = eng
	b.load(t)
}

// load makes a new table from what the engine has.
func (b *lockBench) load(t *testing.T) {
	t.Helper()
	if b.reg != nil {
		b.reg.Close()
	}
	b.reg = poison.NewRegistry(poison.RegistryOptions{})
	table, err := newLockTable(b.reg, b.eng, slog.New(slog.DiscardHandler), b.eng.Failed, func(point string) error {
		if b.fault != nil {
			return b.fault(point)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b.LockTable = table
}

func (b *lockBench) shut() {
	b.reg.Close()
	b.eng.Close() //nolint:errcheck // the directory goes away
}

var lockEpoch = time.Unix(1_700_000_000, 0)

func lockPaths(locks []DAVLock) string {
	var paths []string
	for _, l := range locks {
		paths = append(paths, l.Path)
	}
	slices.Sort(paths)
	return strings.Join(paths, " ")
}

// spec makes a lock from "/path", with "*" behind it for Depth: infinity and "s"
// in front for shared.
func spec(s string) DAVLock {
	var l DAVLock
	s, l.Shared = strings.CutPrefix(s, "s")
	l.Path, l.Infinite = strings.CutSuffix(s, "*")
	return l
}

func TestLockConflicts(t *testing.T) {
	tests := []struct {
		have, want string
		conflict   bool
	}{
		{"/a", "/a", true},
		{"s/a", "s/a", false},
		{"s/a", "/a", true},
		{"/a", "s/a", true},
		{"/a", "/b", false},
		{"/a", "/ab", false},
		{"/a*", "/ab", false},
		{"/a", "/a/b", false}, // depth 0 protects the member list, not the members
		{"/a*", "/a/b", true},
		{"/a*", "/a/b/c", true},
		{"s/a*", "s/a/b", false},
		{"s/a*", "/a/b", true},
		{"/a/b", "/a", false},
		{"/a/b", "/a*", true},
		{"/a/b/c", "/a*", true},
		{"s/a/b", "s/a*", false},
		{"s/a/b", "/a*", true},
		{"/a/b", "/*", true},
		{"/*", "/a", true},
		{"/", "/a", false},
		{"/", "/*", true},
	}
	for _, tt := range tests {
		t.Run(tt.have+" then "+tt.want, func(t *testing.T) {
			b := newLockBench(t)
			have, err := b.Create(lockEpoch, spec(tt.have))
			if err != nil {
				t.Fatal(err)
			}
			_, err = b.Create(lockEpoch, spec(tt.want))
			if got := errors.Is(err, ErrLocked); got != tt.conflict {
				t.Fatalf("Create = %v, want conflict %v", err, tt.conflict)
			}
			var conflict *LockConflictError
			if tt.conflict && (!errors.As(err, &conflict) || len(conflict.Locks) != 1 || conflict.Locks[0].Token != have.Token) {
				t.Errorf("Create = %#v, want the lock in the way, once", err)
			}
			if !tt.conflict {
				return
			}
			if strings.Contains(err.Error(), have.Token) {
				t.Errorf("error %q gives the token away", err)
			}
			after := lockEpoch.Add(DefaultLockTimeout)
			if _, err := b.Create(after, spec(tt.want)); err != nil {
				t.Errorf("Create after the other expired = %v", err)
			}
		})
	}
}

func TestLockCoveringAndWithin(t *testing.T) {
	b := newLockBench(t)
	for _, s := range []string{"s/*", "s/a", "s/a/b*", "s/a/b/c", "s/a/b/c", "s/ab", "s/z/y/x"} {
		if _, err := b.Create(lockEpoch, spec(s)); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct{ path, covering, within string }{
		{"/", "/", "/ /a /a/b /a/b/c /a/b/c /ab /z/y/x"},
		{"/a", "/ /a", "/a /a/b /a/b/c /a/b/c"},
		{"/a/b", "/ /a/b", "/a/b /a/b/c /a/b/c"},
		{"/a/b/c", "/ /a/b /a/b/c /a/b/c", "/a/b/c /a/b/c"},
		{"/a/b/c/d/e", "/ /a/b", ""},
		{"/z", "/", "/z/y/x"},
		{"/z/y/xx", "/", ""},
	}
	for _, tt := range tests {
		got, err := b.Covering(lockEpoch, tt.path)
		if err != nil || lockPaths(got) != tt.covering {
			t.Errorf("Covering(%q) = %q, %v, want %q", tt.path, lockPaths(got), err, tt.covering)
		}
		got, err = b.Within(lockEpoch, tt.path)
		if err != nil || lockPaths(got) != tt.within {
			t.Errorf("Within(%q) = %q, %v, want %q", tt.path, lockPaths(got), err, tt.within)
		}
	}
	if err := b.DropUnder("/a"); err != nil {
		t.Fatal(err)
	}
	if got, _ := b.Within(lockEpoch, "/"); lockPaths(got) != "/ /ab /z/y/x" {
		t.Errorf("after DropUnder(/a): %q", lockPaths(got))
	}
}

func TestLockTimeout(t *testing.T) {
	tests := []struct{ ask, want time.Duration }{
		{0, DefaultLockTimeout},
		{-1, MaxLockTimeout},
		{time.Second, MinLockTimeout},
		{5 * time.Minute, 5 * time.Minute},
		{time.Hour, time.Hour},
		{1 << 62, MaxLockTimeout},
	}
	b := newLockBench(t)
	for i, tt := range tests {
		l, err := b.Create(lockEpoch, DAVLock{Path: fmt.Sprint("/", i), Timeout: tt.ask})
		if err != nil || l.Timeout != tt.want || !l.Expires.Equal(lockEpoch.Add(tt.want)) {
			t.Errorf("Create(timeout %v) = %v until %v, %v, want %v", tt.ask, l.Timeout, l.Expires, err, tt.want)
		}
	}
}

func TestLockExpiresAndRefreshes(t *testing.T) {
	b := newLockBench(t)
	l, err := b.Create(lockEpoch, DAVLock{Path: "/f", Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	late := lockEpoch.Add(59 * time.Second)
	if l, err = b.Refresh(late, l.Token, 2*time.Minute); err != nil || !l.Expires.Equal(late.Add(2*time.Minute)) {
		t.Fatalf("Refresh = %+v, %v", l, err)
	}
	if got, _ := b.Covering(late.Add(119*time.Second), "/f"); len(got) != 1 {
		t.Error("the refreshed lock is gone early")
	}
	end := late.Add(2 * time.Minute)
	if got, _ := b.Covering(end, "/f"); len(got) != 0 {
		t.Errorf("Covering at expiry = %v", got)
	}
	b.Prune(end.Add(-1))
	if b.Len() != 1 {
		t.Errorf("Len = %d before the lock expires, want 1", b.Len())
	}
	if b.Prune(end); b.Len() != 0 {
		t.Errorf("Len = %d after expired locks were removed, want 0", b.Len())
	}
	for name, err := range map[string]error{
		"Get":     second(b.Get(end, l.Token)),
		"Refresh": second(b.Refresh(end, l.Token, 0)),
		"Unlock":  b.Unlock(end, l.Token),
	} {
		if !errors.Is(err, ErrNoLock) {
			t.Errorf("%s of an expired lock = %v, want ErrNoLock", name, err)
		}
	}
}

func TestExpiredLockIsNotReturnedWhenItCannotBeRemoved(t *testing.T) {
	b := newLockBench(t)
	if _, err := b.Create(lockEpoch, DAVLock{Path: "/f"}); err != nil {
		t.Fatal(err)
	}
	b.fault = func(string) error { return errors.New("no space") }
	if got, err := b.Covering(lockEpoch.Add(time.Hour), "/f"); len(got) != 0 || err != nil {
		t.Errorf("Covering = %v, %v", got, err)
	}
	if b.Len() != 1 {
		t.Errorf("Len = %d, want the lock that could not be removed", b.Len())
	}
}

func TestEmptyLockTableHoldsNoNodes(t *testing.T) {
	b := newLockBench(t)
	var tokens []string
	for _, p := range []string{"/a/b/c", "/a/b", "/a/x/y/z", "/q"} {
		l, err := b.Create(lockEpoch, DAVLock{Path: p, Principal: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, l.Token)
	}
	for _, token := range tokens {
		if err := b.Unlock(lockEpoch, token); err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.set.Read("test", func(s *davLocks) {
		if len(s.root.children)+len(s.tokens)+len(s.principals)+len(s.expiry) > 0 {
			t.Errorf("left behind: %+v", s)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestLockTokenIsRandomUUID(t *testing.T) {
	v4 := regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	for range 1000 {
		token := newLockToken()
		if !v4.MatchString(token) || seen[token] {
			t.Fatalf("token %q", token)
		}
		seen[token] = true
	}
}

func TestLockSurvivesRestart(t *testing.T) {
	b := newLockBench(t)
	want, err := b.Create(lockEpoch, DAVLock{
		Path: "/d/ä b", Infinite: true, Shared: true, Principal: "ann", Timeout: 90 * time.Second,
		Owner: `<h xmlns="x">Ann &amp; Co</h>`,
	})
	if err != nil {
		t.Fatal(err)
	}
	gone, _ := b.Create(lockEpoch, DAVLock{Path: "/gone"})
	if err := b.Unlock(lockEpoch, gone.Token); err != nil {
		t.Fatal(err)
	}
	if err := b.eng.Sync(); err != nil {
		t.Fatal(err)
	}
	b.shut()
	b.open(t)
	if got, err := b.Get(lockEpoch, want.Token); err != nil || got != want {
		t.Errorf("after restart: %+v, %v, want %+v", got, err, want)
	}
	if b.Len() != 1 {
		t.Errorf("Len = %d after restart, want 1", b.Len())
	}
}

func TestLockLimits(t *testing.T) {
	s := newDAVLocks()
	for i := range MaxPrincipalLocks {
		s.put(DAVLock{Token: fmt.Sprint(i), Path: fmt.Sprint("/", i), Principal: "ann", Expires: lockEpoch.Add(time.Duration(i))})
	}
	if !s.full("ann", nil) {
		t.Error("a principal may have more than MaxPrincipalLocks")
	}
	if s.full("bob", nil) {
		t.Error("another principal is refused")
	}
	if s.full("ann", s.expired(lockEpoch)) {
		t.Error("an expired lock still counts")
	}
	for i := len(s.tokens); i < MaxLocks; i++ {
		s.put(DAVLock{Token: fmt.Sprint(i), Path: fmt.Sprint("/", i), Principal: fmt.Sprint(i % 50), Expires: lockEpoch.Add(time.Hour)})
	}
	if !s.full("bob", nil) {
		t.Error("there may be more than MaxLocks")
	}
}

// TestLockTableFailsClosed poisons the table at each point and by each cause:
// every method must refuse, reset must restore exactly what the engine has.
func TestLockTableFailsClosed(t *testing.T) {
	for _, point := range []string{"davlock:append", "davlock:publish"} {
		for _, cause := range []string{"panic", "goexit"} {
			t.Run(point+" "+cause, func(t *testing.T) { testLockFault(t, point, cause) })
		}
	}
}

func testLockFault(t *testing.T, point, cause string) {
	b := newLockBench(t)
	kept, err := b.Create(lockEpoch, DAVLock{Path: "/kept"})
	if err != nil {
		t.Fatal(err)
	}
	b.fault = func(p string) error {
		if p != point {
			return nil
		}
		if cause == "goexit" {
			runtime.Goexit()
		}
		panic("drill")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Create(lockEpoch, DAVLock{Path: "/new"}) //nolint:errcheck // dies, or is checked by the calls below
	}()
	<-done
	b.fault = nil
	for name, err := range map[string]error{
		"Covering":  second(b.Covering(lockEpoch, "/other")),
		"Within":    second(b.Within(lockEpoch, "/other")),
		"Get":       second(b.Get(lockEpoch, kept.Token)),
		"Create":    second(b.Create(lockEpoch, DAVLock{Path: "/x"})),
		"Refresh":   second(b.Refresh(lockEpoch, kept.Token, 0)),
		"Unlock":    b.Unlock(lockEpoch, kept.Token),
		"DropUnder": b.DropUnder("/"),
	} {
		if !errors.Is(err, ErrPoisoned) {
			t.Errorf("%s on the poisoned table = %v, want ErrPoisoned", name, err)
		}
	}
	gen := b.set.Event().Gen
	if _, _, err := b.reset(gen+1, false); !errors.Is(err, poison.ErrStale) {
		t.Errorf("reset of another generation = %v, want ErrStale", err)
	}
	_, dry, err := b.reset(gen, true)
	if err != nil || b.set.Event() == nil {
		t.Fatalf("dry run: %v, healthy %v", err, b.set.Event() == nil)
	}
	have, reloaded, err := b.reset(gen, false)
	if err != nil {
		t.Fatal(err)
	}
	want := 1 // at davlock:append the engine does not have the new lock yet
	if point == "davlock:publish" {
		want = 2
	}
	if len(have) != 1 || len(reloaded) != want-1 || len(dry) != len(reloaded) || b.Len() != want {
		t.Errorf("reset kept %q, reloaded %q (dry run %q), Len %d; want %d locks", have, reloaded, dry, b.Len(), want)
	}
	if _, err := b.Refresh(lockEpoch, kept.Token, 0); err != nil {
		t.Errorf("Refresh after reset = %v", err)
	}
}

func TestEmptyPoisonedLockTableFailsClosed(t *testing.T) {
	b := newLockBench(t)
	b.set.Poison("scrub", poison.Manual, "test")
	if _, err := b.Covering(lockEpoch, "/f"); !errors.Is(err, ErrPoisoned) {
		t.Errorf("Covering = %v, want ErrPoisoned", err)
	}
	if err := b.DropUnder("/f"); !errors.Is(err, ErrPoisoned) {
		t.Errorf("DropUnder = %v, want ErrPoisoned", err)
	}
}

func TestLockErrorBeforeAppendChangesNothing(t *testing.T) {
	b := newLockBench(t)
	boom := errors.New("boom")
	b.fault = func(string) error { return boom }
	if _, err := b.Create(lockEpoch, DAVLock{Path: "/f"}); !errors.Is(err, boom) {
		t.Errorf("Create = %v, want the injected error", err)
	}
	if b.set.Event() != nil || b.Len() != 0 {
		t.Errorf("event %v, Len %d after a refused change", b.set.Event(), b.Len())
	}
	b.fault = nil
	if _, err := b.Create(lockEpoch, DAVLock{Path: "/f"}); err != nil {
		t.Errorf("Create afterwards = %v", err)
	}
}

func TestLockRecordRefusesGarbage(t *testing.T) {
	good := appendLock(nil, &DAVLock{Path: "/f", Principal: "p", Owner: "o", Timeout: 1, Expires: lockEpoch})
	if _, err := parseLock("t", good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		if _, err := parseLock("t", good[:i]); err == nil {
			t.Errorf("record cut to %d of %d bytes accepted", i, len(good))
		}
	}
	if _, err := parseLock("t", append(slices.Clone(good), 0)); err == nil {
		t.Error("record with a byte too many accepted")
	}
	var version *meta.VersionError
	if _, err := parseLock("t", append([]byte{9}, good[1:]...)); !errors.As(err, &version) {
		t.Errorf("unknown version: %v, want *meta.VersionError", err)
	}
}

func TestLockTableConcurrent(t *testing.T) {
	b := newLockBench(t)
	var wg sync.WaitGroup
	held := make([]int, 4) // by path; the lock protects the element
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				n := (g + i) % len(held)
				l, err := b.Create(lockEpoch, DAVLock{Path: fmt.Sprint("/", n)})
				if errors.Is(err, ErrLocked) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				held[n]++
				if err := b.Unlock(lockEpoch, l.Token); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if b.Len() != 0 {
		t.Errorf("Len = %d at the end, want 0", b.Len())
	}
}

// TestLockTableModel compares the table with a plain list, and with itself
// after a reload from the engine.
func TestLockTableModel(t *testing.T) {
	b := newLockBench(t)
	rapid.Check(t, func(rt *rapid.T) {
		if err := b.DropUnder("/"); err != nil {
			rt.Fatal(err)
		}
		m := &lockModel{b: b, now: lockEpoch}
		rt.Repeat(map[string]func(*rapid.T){
			"create":  m.create,
			"refresh": m.refresh,
			"unlock":  m.unlock,
			"drop":    m.drop,
			"tick":    func(rt *rapid.T) { m.now = m.now.Add(time.Duration(rapid.IntRange(1, 90).Draw(rt, "s")) * time.Second) },
			"reload":  func(*rapid.T) { b.load(t) },
			"":        m.compare,
		})
	})
}

type lockModel struct {
	b     *lockBench
	now   time.Time
	locks []DAVLock
}

var modelPath = rapid.SampledFrom([]string{"/", "/a", "/a/b", "/a/b/c", "/a/bb", "/d"})

func (m *lockModel) live() []DAVLock {
	return slices.DeleteFunc(slices.Clone(m.locks), func(l DAVLock) bool { return !l.Expires.After(m.now) })
}

func (m *lockModel) create(t *rapid.T) {
	l := DAVLock{
		Path:      modelPath.Draw(t, "path"),
		Infinite:  rapid.Bool().Draw(t, "infinite"),
		Shared:    rapid.Bool().Draw(t, "shared"),
		Principal: rapid.SampledFrom([]string{"", "ann"}).Draw(t, "principal"),
		Timeout:   time.Duration(rapid.IntRange(1, 100).Draw(t, "timeout")) * time.Second,
	}
	conflict := slices.ContainsFunc(m.live(), func(h DAVLock) bool {
		return (h.Covers(l.Path) || l.Covers(h.Path)) && !(h.Shared && l.Shared)
	})
	got, err := m.b.Create(m.now, l)
	if errors.Is(err, ErrLocked) != conflict || err != nil && !conflict {
		t.Fatalf("Create(%+v) = %v, want conflict %v", l, err, conflict)
	}
	if err == nil {
		m.locks = append(m.locks, got)
	}
}

// pick draws a lock that exists or existed.
func (m *lockModel) pick(t *rapid.T) int {
	if len(m.locks) == 0 {
		t.Skip("no lock")
	}
	return rapid.IntRange(0, len(m.locks)-1).Draw(t, "lock")
}

func (m *lockModel) refresh(t *rapid.T) {
	i := m.pick(t)
	dead := !m.locks[i].Expires.After(m.now)
	got, err := m.b.Refresh(m.now, m.locks[i].Token, 2*time.Minute)
	if errors.Is(err, ErrNoLock) != dead || err != nil && !dead {
		t.Fatalf("Refresh = %v, want expired %v", err, dead)
	}
	if err == nil {
		m.locks[i] = got
	}
}

func (m *lockModel) unlock(t *rapid.T) {
	i := m.pick(t)
	dead := !m.locks[i].Expires.After(m.now)
	if err := m.b.Unlock(m.now, m.locks[i].Token); errors.Is(err, ErrNoLock) != dead || err != nil && !dead {
		t.Fatalf("Unlock = %v, want expired %v", err, dead)
	}
	m.locks = slices.Delete(m.locks, i, i+1)
}

func (m *lockModel) drop(t *rapid.T) {
	p := modelPath.Draw(t, "path")
	if err := m.b.DropUnder(p); err != nil {
		t.Fatal(err)
	}
	m.locks = slices.DeleteFunc(m.locks, func(l DAVLock) bool { return l.Path == p || pathWithin(l.Path, p) })
}

func (m *lockModel) compare(t *rapid.T) {
	for _, p := range []string{"/", "/a", "/a/b", "/a/b/c", "/a/b/c/d", "/a/bb", "/d", "/e"} {
		m.same(t, "Covering "+p, second2(m.b.Covering(m.now, p)), func(l DAVLock) bool { return l.Covers(p) })
		m.same(t, "Within "+p, second2(m.b.Within(m.now, p)), func(l DAVLock) bool { return path.Clean(l.Path) == p || pathWithin(l.Path, p) })
	}
}

type locksAndError struct {
	locks []DAVLock
	err   error
}

func second2(locks []DAVLock, err error) locksAndError { return locksAndError{locks, err} }

func (m *lockModel) same(t *rapid.T, what string, got locksAndError, match func(DAVLock) bool) {
	want := m.live()
	want = slices.DeleteFunc(want, func(l DAVLock) bool { return !match(l) })
	byToken := func(a, b DAVLock) int { return strings.Compare(a.Token, b.Token) }
	slices.SortFunc(want, byToken)
	slices.SortFunc(got.locks, byToken)
	if got.err != nil || !slices.Equal(got.locks, want) {
		t.Fatalf("%s = %v, %v, want %v", what, got.locks, got.err, want)
	}
}

func BenchmarkLockTableCoveringEmpty(b *testing.B) {
	reg := poison.NewRegistry(poison.RegistryOptions{})
	defer reg.Close()
	eng, err := pebble.Open(b.TempDir(), pebble.Options{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	defer eng.Close()
	t, err := newLockTable(reg, eng, slog.New(slog.DiscardHandler), eng.Failed, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if locks, err := t.Covering(lockEpoch, "/a/b/c"); len(locks) > 0 || err != nil {
			b.Fatal(locks, err)
		}
	}
}
