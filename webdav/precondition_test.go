package webdav

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"engramfs/store"
)

const authAnn, authBob = "Authorization: Basic YW5uOng=", "Authorization: Basic Ym9iOng="

// TestLockNeeds: which locks keep which changes out.
func TestLockNeeds(t *testing.T) {
	setup := func(t *testing.T) *server {
		s := newServer(t, "")
		s.make("/d", "tree", "x") // /d/f, /d/x-sub/f
		s.make("/e", "tree", "x")
		s.make("/f", "file", "x")
		return s
	}
	for _, tc := range []struct {
		name, locked, depth string
		blocked, allowed    [][]string // method, target, extra header
	}{
		{
			name: "File", locked: "/d/f", depth: "0",
			blocked: [][]string{
				{"PUT", "/d/f"}, {"DELETE", "/d/f"}, {"DELETE", "/d"}, {"MOVE", "/d/f", "Destination: /g"},
				{"MOVE", "/d", "Destination: /g"}, {"MOVE", "/f", "Destination: /d/f"}, {"COPY", "/f", "Destination: /d/f"},
				{"MOVE", "/e", "Destination: /d"}, {"COPY", "/e", "Destination: /d"},
			},
			allowed: [][]string{
				{"GET", "/d/f"}, {"PUT", "/d/new"}, {"COPY", "/d/f", "Destination: /g"}, {"COPY", "/d", "Destination: /h"},
				{"DELETE", "/d/x-sub"}, {"PUT", "/d/f/../new"},
			},
		},
		{
			name: "CollectionDepth0", locked: "/d", depth: "0",
			blocked: [][]string{
				{"PUT", "/d/new"}, {"MKCOL", "/d/new"}, {"DELETE", "/d/f"}, {"MOVE", "/d/f", "Destination: /g"},
				{"MOVE", "/f", "Destination: /d/g"}, {"COPY", "/f", "Destination: /d/g"}, {"DELETE", "/d"},
			},
			allowed: [][]string{{"PUT", "/d/f"}, {"PUT", "/d/x-sub/new"}, {"DELETE", "/d/x-sub/f"}, {"GET", "/d"}},
		},
		{
			name: "CollectionInfinite", locked: "/d", depth: "infinity",
			blocked: [][]string{
				{"PUT", "/d/f"}, {"PUT", "/d/x-sub/new"}, {"DELETE", "/d/x-sub/f"}, {"MKCOL", "/d/x-sub/y"},
				{"MOVE", "/d/x-sub/f", "Destination: /g"}, {"COPY", "/f", "Destination: /d/x-sub/g"}, {"DELETE", "/d"},
			},
			allowed: [][]string{{"GET", "/d/f"}, {"PUT", "/e/f"}, {"COPY", "/d/f", "Destination: /g"}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := setup(t)
			token := s.lock(tc.locked, "Depth: "+tc.depth, authAnn)
			for _, r := range tc.blocked {
				for _, headers := range [][]string{{authAnn}, {authBob, "If: <" + tc.locked + "> (<" + token + ">)"}} {
					got := s.do(r[0], r[1], "", append(headers, r[2:]...)...)
					if got.code != 423 || !strings.Contains(got.body, "<D:lock-token-submitted><D:href>"+tc.locked) {
						t.Errorf("%q with %q = %d %s, want 423 naming the lock", r, headers, got.code, got.body)
					}
				}
			}
			for _, r := range tc.allowed {
				if got := s.do(r[0], r[1], "", append([]string{authBob}, r[2:]...)...); got.code >= 300 {
					t.Errorf("%q = %d, want success", r, got.code)
				}
			}
		})
		for i := range tc.blocked {
			r := tc.blocked[i]
			t.Run(tc.name+"/token/"+r[0]+r[1], func(t *testing.T) {
				s := setup(t)
				token := s.lock(tc.locked, "Depth: "+tc.depth, authAnn)
				headers := append([]string{authAnn, "If: <" + tc.locked + "> (<" + token + ">)"}, r[2:]...)
				if got := s.do(r[0], r[1], "", headers...); got.code >= 300 {
					t.Errorf("%q with the token = %d %s", r, got.code, got.body)
				}
			})
		}
	}
}

// TestLocksEndWithTheirResource: DELETE and MOVE take the locks of what is gone
// with them; a lock on a destination outlives what is put there.
func TestLocksEndWithTheirResource(t *testing.T) {
	s := newServer(t, "")
	s.make("/d", "tree", "x")
	token := s.lock("/d/f")
	s.want(204, "DELETE", "/d", "", "If: </d/f> (<"+token+">)")
	s.make("/d", "tree", "x")
	s.want(204, "PUT", "/d/f", "free again")

	token = s.lock("/d/f")
	s.want(201, "MOVE", "/d", "", "Destination: /e", "If: </d/f> (<"+token+">)")
	s.want(204, "PUT", "/e/f", "free")
	if n := s.store.DAVLocks().Len(); n != 0 {
		t.Errorf("%d locks are left", n)
	}

	s.make("/target", "tree", "x")
	onRoot := s.lock("/target", "Depth: 0")
	vanishing := s.lock("/target/x-sub/f")
	s.want(204, "MOVE", "/e/x-sub", "", "Destination: /target", "If: </target> (<"+onRoot+">) </target/x-sub/f> (<"+vanishing+">)")
	s.want(423, "PUT", "/target/new", "x")
	s.want(201, "PUT", "/target/new", "x", "If: </target> (<"+onRoot+">)")
	if n := s.store.DAVLocks().Len(); n != 1 {
		t.Errorf("%d locks are left, want the one on the destination", n)
	}
	s.want(204, "UNLOCK", "/target", "", "Lock-Token: <"+onRoot+">")
}

// TestSharedLocks: one token of several shared locks is enough.
func TestSharedLocks(t *testing.T) {
	s := newServer(t, "")
	s.want(201, "PUT", "/f", "x")
	var tokens []string
	for range 2 {
		a := s.want(200, "LOCK", "/f", lockBody("shared"))
		tokens = append(tokens, strings.Trim(a.header.Get("Lock-Token"), "<>"))
	}
	s.want(423, "PUT", "/f", "x")
	s.want(204, "PUT", "/f", "x", "If: (<"+tokens[0]+">)")
	s.want(204, "PUT", "/f", "x", "If: (<"+tokens[1]+">)")
	s.want(204, "DELETE", "/f", "", "If: (<"+tokens[1]+">)")
}

// TestHeldLocksCover compares with the locks' own idea of what they apply to.
func TestHeldLocksCover(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		path := rapid.Custom(func(t *rapid.T) string {
			return "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "ab"}), 0, 4).Draw(t, "path"), "/")
		})
		r := &request{principal: "ann"}
		locks := make([]store.DAVLock, rapid.IntRange(0, 6).Draw(t, "locks"))
		held := make([]bool, len(locks))
		for i := range locks {
			l := &locks[i]
			*l = store.DAVLock{Token: fmt.Sprint("urn:", i), Path: path.Draw(t, "root"), Infinite: rapid.Bool().Draw(t, "infinite")}
			l.Principal = rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "principal")
			submitted := rapid.Bool().Draw(t, "submitted")
			if submitted {
				r.ifs.lists = append(r.ifs.lists, ifList{conds: []ifCondition{{token: l.Token}}})
			}
			held[i] = submitted && l.Principal == "ann"
		}
		p := path.Draw(t, "path")
		want := false
		for i := range locks {
			want = want || held[i] && locks[i].Covers(p)
		}
		if got := r.heldLocks(locks).cover(p); got != want {
			t.Fatalf("%v cover %s: %v, want %v", locks, p, got, want)
		}
	})
}

// TestManyLocksBelow removes a collection with as many locks below it as one
// principal may have: with and without their tokens.
func TestManyLocksBelow(t *testing.T) {
	b := newDAVBench(t, "")
	b.node("/", "d", newDirMode, "")
	now := b.st.Now()
	r := &request{principal: "ann", now: now}
	for i := range store.MaxPrincipalLocks {
		l, err := b.locks.Create(now, store.DAVLock{Path: fmt.Sprint("/d/", i), Principal: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		r.ifs.lists = append(r.ifs.lists, ifList{conds: []ifCondition{{token: l.Token}}})
	}
	began := time.Now()
	if err := b.confirmTree(r, now, "/d"); err != nil {
		t.Errorf("with all tokens: %v", err)
	}
	r.principal = "bob"
	var e *statusError
	if err := b.confirmTree(r, now, "/d"); !errors.As(err, &e) || len(e.hrefs) != store.MaxPrincipalLocks {
		t.Errorf("without a token: %v", err)
	}
	if d := time.Since(began); d > 2*time.Second { // much more when each is compared with each
		t.Errorf("it took %v", d)
	}
}
