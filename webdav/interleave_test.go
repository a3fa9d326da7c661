package webdav

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/storetest"
)

// gate stops one operation of a store before it takes its locks.
type gate struct {
	op      atomic.Pointer[string]
	reached chan struct{}
	open    chan struct{}
}

func (g *gate) began(_ context.Context, op string, _ store.Ino) func(error) {
	if want := g.op.Load(); want != nil && *want == op && g.op.CompareAndSwap(want, nil) {
		g.reached <- struct{}{}
		<-g.open
	}
	return nil
}

// newGated returns a server and the gate of its store.
func newGated(t *testing.T) (*server, *gate) {
	t.Helper()
	g := &gate{reached: make(chan struct{}), open: make(chan struct{})}
	st, _ := storetest.NewWith(t, store.Options{Began: g.began})
	return serve(t, st, ""), g
}

// during begins a request, runs fn when it is at the operation op, and returns its answer.
func (s *server) during(g *gate, op string, fn func(), method, target, body string, headers ...string) answer {
	s.t.Helper()
	g.op.Store(&op)
	done := make(chan answer, 1)
	go func() {
		got, err := s.try(method, target, strings.NewReader(body), headers...)
		if err != nil {
			s.t.Errorf("%s %s: %v", method, target, err)
		}
		done <- got
	}()
	select {
	case <-g.reached:
	case got := <-done:
		s.t.Fatalf("%s = %d without %q", method, got.code, op)
	case <-time.After(10 * time.Second):
		s.t.Fatalf("%s has not begun %q", method, op)
	}
	func() {
		defer close(g.open) // also if fn fails the test
		fn()
	}()
	return <-done
}

// TestLockTakenDuringChange: whoever gets a lock while a request of somebody else is
// under way, and writes under it, loses nothing to that request.
func TestLockTakenDuringChange(t *testing.T) {
	for _, c := range []struct {
		name, method, target, body string
		destination                string
		op                         string
		locked, depth              string
	}{
		{"PUT", "PUT", "/d/f", "theirs", "", "put", "/d/f", "0"},
		{"PUTNew", "PUT", "/d/n", "theirs", "", "put", "/d", "0"},
		{"DELETE", "DELETE", "/d/f", "", "", "unlink", "/d/f", "0"},
		{"DELETEMember", "DELETE", "/d/f", "", "", "unlink", "/d", "0"},
		{"DELETETree", "DELETE", "/d", "", "", "remove_all", "/d/f", "0"},
		{"COPYFile", "COPY", "/src/f", "", "/d/f", "clone", "/d/f", "0"},
		{"COPYNew", "COPY", "/src/f", "", "/d/n", "clone", "/d", "0"},
		{"COPYTree", "COPY", "/src", "", "/d", "clone", "/d/f", "0"},
		{"COPYTreeRoot", "COPY", "/src", "", "/d", "clone", "/d", "infinity"},
		{"MOVEFile", "MOVE", "/src/f", "", "/d/f", "rename", "/d/f", "0"},
		{"MOVETree", "MOVE", "/src", "", "/d", "rename", "/d/f", "0"},
		{"MOVESource", "MOVE", "/d/f", "", "/n", "rename", "/d/f", "0"},
		{"MOVESourceTree", "MOVE", "/d", "", "/n", "rename", "/d/f", "0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, g := newGated(t)
			for _, dir := range []string{"/src", "/d"} {
				s.want(201, "MKCOL", dir, "")
				s.want(201, "PUT", dir+"/f", dir)
			}
			const owner = "Authorization: Basic Ym9iOng=" // bob
			var headers []string
			if c.destination != "" {
				headers = []string{"Destination: " + c.destination}
			}
			var token string
			got := s.during(g, c.op, func() {
				token = s.lock(c.locked, owner, "Depth: "+c.depth)
				s.want(204, "PUT", "/d/f", "mine", owner, "If: <"+c.locked+"> (<"+token+">)")
			}, c.method, c.target, c.body, headers...)
			if got.code != http.StatusLocked {
				t.Errorf("%s = %d, want 423", c.method, got.code)
			}
			if got := s.content("/d/f"); got != "mine" {
				t.Errorf("/d/f is %q", got)
			}
			s.want(204, "UNLOCK", c.locked, "", owner, "Lock-Token: <"+token+">")
			if got := s.do(c.method, c.target, c.body, headers...); got.code != 201 && got.code != 204 {
				t.Errorf("%s without the lock = %d", c.method, got.code)
			}
		})
	}
}

// TestDestinationConditionAskedAtCommit: what an If header says of the destination
// counts when the change is made.
func TestDestinationConditionAskedAtCommit(t *testing.T) {
	for _, c := range []struct{ method, op string }{{"COPY", "clone"}, {"MOVE", "rename"}} {
		t.Run(c.method, func(t *testing.T) {
			s, g := newGated(t)
			s.want(201, "PUT", "/src", "src")
			etag := s.want(201, "PUT", "/dst", "dst").header.Get("Etag")
			got := s.during(g, c.op, func() { s.want(204, "PUT", "/dst", "overtaking") },
				c.method, "/src", "", "Destination: /dst", "If: </dst> (["+etag+"])")
			if got.code != 412 {
				t.Errorf("%s = %d, want 412", c.method, got.code)
			}
			if got := s.content("/dst"); got != "overtaking" {
				t.Errorf("/dst is %q", got)
			}
			etag = s.want(200, "HEAD", "/dst", "").header.Get("Etag")
			s.want(204, c.method, "/src", "", "Destination: /dst", "If: </dst> (["+etag+"])")
		})
	}
}
