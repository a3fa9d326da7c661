package webdav

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

func TestLockAnswerGolden(t *testing.T) {
	b := galleryBench(t)
	owner := `<?xml version="1.0"?><D:lockinfo xmlns:D="DAV:" xmlns:q="urn:q"><D:lockscope><D:exclusive/></D:lockscope>` +
		`<D:locktype><D:write/></D:locktype><D:owner><D:href>http://x/?a&amp;b</D:href><q:name>Ann</q:name></D:owner></D:lockinfo>`
	got := b.want(200, "LOCK", "/dav/d/%C3%A4%20%3Cb%3E.txt", owner, "Depth", "0", "Timeout", "Infinite, Second-4100000000")
	golden(t, "lock", got)
	discovery := `<D:propfind xmlns:D="DAV:"><D:prop><D:lockdiscovery/></D:prop></D:propfind>`
	shown := b.want(207, "PROPFIND", "/dav/d/%C3%A4%20%3Cb%3E.txt", discovery, "Depth", "0")
	active := got[strings.Index(got, "<D:activelock>") : strings.Index(got, "</D:activelock>")+len("</D:activelock>")]
	active = active[:strings.Index(active, "Second-")] // the rest of the time differs
	if !strings.Contains(shown, active) {
		t.Errorf("lockdiscovery lacks the LOCK answer's %s:\n%s", active, shown)
	}
}

func TestLockRequests(t *testing.T) {
	body := lockBody("exclusive")
	bad := func(from, to string) string { return strings.Replace(body, from, to, 1) }
	tests := []struct {
		name, target, body string
		headers            []string
		code               int
		want               string
	}{
		{"File", "/d/f", body, nil, 200, "<D:depth>infinity</D:depth>"},
		{"Depth0", "/d/f", body, []string{"Depth", "0"}, 200, "<D:depth>0</D:depth>"},
		{"Collection", "/d/", body, nil, 200, "<D:lockroot><D:href>/d</D:href></D:lockroot>"},
		{"Root", "/", body, nil, 200, "<D:lockroot><D:href>/</D:href></D:lockroot>"},
		{"Shared", "/d/f", lockBody("shared"), nil, 200, "<D:shared/>"},
		{"Unmapped", "/d/new%20%C3%A4", body, nil, 201, "<D:href>/d/new%20%C3%A4</D:href>"},
		{"UnmappedParentMissing", "/x/new", body, nil, 409, ""},
		{"UnmappedParentFile", "/d/f/new", body, nil, 409, ""},
		{"UnmappedIfNoneMatch", "/d/new", body, []string{"If-None-Match", "*"}, 201, ""},
		{"MappedIfNoneMatch", "/d/f", body, []string{"If-None-Match", "*"}, 412, ""},
		{"MappedIfMatchOther", "/d/f", body, []string{"If-Match", `"x"`}, 412, ""},
		{"Depth1", "/d/f", body, []string{"Depth", "1"}, 400, ""},
		{"NoBodyNoIf", "/d/f", "", nil, 400, ""},
		{"DefaultTimeout", "/d/f", body, nil, 200, "Second-600<"},
		{"Timeout", "/d/f", body, []string{"Timeout", "Second-90"}, 200, "Second-90<"},
		{"TimeoutAnyCase", "/d/f", body, []string{"Timeout", "SECOND-90"}, 200, "Second-90<"},
		{"TimeoutJunk", "/d/f", body, []string{"Timeout", "tomorrow, Second-x, Second-90"}, 200, "Second-90<"},
		{"TimeoutInfinite", "/d/f", body, []string{"Timeout", "Infinite"}, 200, "Second-3600<"},
		{"TimeoutHuge", "/d/f", body, []string{"Timeout", "Second-99999999999999999999"}, 200, "Second-3600<"},
		{"TimeoutShort", "/d/f", body, []string{"Timeout", "Second-0"}, 200, "Second-60<"},
		{"NotXML", "/d/f", "junk", nil, 400, ""},
		{"NoScope", "/d/f", bad(`<D:exclusive/>`, ""), nil, 400, ""},
		{"OtherScope", "/d/f", bad(`D:exclusive`, "D:both"), nil, 400, ""},
		{"OtherType", "/d/f", bad(`D:write`, "D:read"), nil, 400, ""},
		{"EmptyPrefix", "/d/f", bad(`xmlns:D="DAV:"`, `xmlns:D="DAV:" xmlns:x=""`), nil, 400, ""},
		{"OwnerTooLong", "/d/f", bad("</D:lockinfo>", "<D:owner>"+strings.Repeat("x", maxOwner+1)+"</D:owner></D:lockinfo>"), nil, 400, ""},
		{"FalseIf", "/d/f", body, []string{"If", "(<urn:uuid:0>)"}, 412, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newDAVBench(t, "")
			b.node("/", "d", newDirMode, "")
			b.node("/d", "f", newFileMode, "")
			got := b.want(tt.code, "LOCK", tt.target, tt.body, tt.headers...)
			if !strings.Contains(got, tt.want) {
				t.Errorf("body lacks %q:\n%s", tt.want, got)
			}
			if locked := b.locks.Len() > 0; locked != (tt.code < 300) {
				t.Errorf("status %d, %d locks", tt.code, b.locks.Len())
			}
		})
	}
}

func TestLockConflictNamesTheLock(t *testing.T) {
	b := newDAVBench(t, "/p")
	b.node("/", "a b", newDirMode, "")
	b.node("/a b", "f", newFileMode, "")
	b.token(200, "/p/a%20b", "exclusive", "user", "ann")
	for _, target := range []string{"/p/a%20b", "/p/a%20b/f", "/p/a%20b/new"} {
		got := b.want(423, "LOCK", target, lockBody("shared"), "user", "bob")
		if !strings.Contains(got, "<D:no-conflicting-lock><D:href>/p/a%20b</D:href></D:no-conflicting-lock>") {
			t.Errorf("LOCK %s: %s", target, got)
		}
	}
	if _, err := b.st.LookupPath(context.Background(), "/a b/new"); err == nil {
		t.Error("a refused LOCK created the file")
	}
	got := b.want(423, "PUT", "/p/a%20b/f", "x", "user", "bob")
	if !strings.Contains(got, "<D:lock-token-submitted><D:href>/p/a%20b</D:href></D:lock-token-submitted>") {
		t.Errorf("PUT: %s", got)
	}
}

func TestLockOfCollectionWithLockedMember(t *testing.T) {
	b := newDAVBench(t, "")
	b.node("/", "d", newDirMode, "")
	b.node("/d", "f", newFileMode, "")
	b.token(200, "/d/f", "exclusive")
	got := b.want(207, "LOCK", "/d", lockBody("exclusive"))
	for _, want := range []string{
		"<D:href>/d/f</D:href><D:status>HTTP/1.1 423 Locked</D:status>",
		"<D:href>/d/</D:href><D:status>HTTP/1.1 424 Failed Dependency</D:status>",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("body lacks %s:\n%s", want, got)
		}
	}
	if b.locks.Len() != 1 {
		t.Errorf("%d locks", b.locks.Len())
	}
	b.token(200, "/d", "exclusive", "Depth", "0") // does not touch members
}

func TestLockUnmappedUnderLocks(t *testing.T) {
	tests := []struct {
		name, scope, depth string
		ask                string
		withToken          bool
		code               int
	}{
		{"Depth0NoToken", "exclusive", "0", "exclusive", false, 423},
		{"Depth0Token", "exclusive", "0", "exclusive", true, 201},
		{"SharedInfiniteNoToken", "shared", "infinity", "shared", false, 423},
		{"SharedInfiniteToken", "shared", "infinity", "shared", true, 201},
		{"ExclusiveInfiniteToken", "exclusive", "infinity", "shared", true, 423},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newDAVBench(t, "")
			b.node("/", "d", newDirMode, "")
			token := b.token(200, "/d", tt.scope, "Depth", tt.depth)
			var headers []string
			if tt.withToken {
				headers = []string{"If", "</d> (<" + token + ">)"}
			}
			b.want(tt.code, "LOCK", "/d/new", lockBody(tt.ask), headers...)
			_, err := b.st.LookupPath(context.Background(), "/d/new")
			if (err == nil) != (tt.code == 201) {
				t.Errorf("status %d, file: %v", tt.code, err)
			}
		})
	}
}

func TestSharedLocksStandTogether(t *testing.T) {
	b := newDAVBench(t, "")
	b.node("/", "f", newFileMode, "")
	one := b.token(200, "/f", "shared", "user", "ann")
	two := b.token(200, "/f", "shared", "user", "bob")
	b.want(423, "LOCK", "/f", lockBody("exclusive"), "user", "ann")
	b.want(423, "PUT", "/f", "x", "user", "cat")
	b.want(204, "PUT", "/f", "x", "user", "bob", "If", "(<"+two+">)")
	b.want(423, "PUT", "/f", "x", "user", "bob", "If", "(<"+one+">)")
	body := `<D:propfind xmlns:D="DAV:"><D:prop><D:lockdiscovery/></D:prop></D:propfind>`
	if got := b.want(207, "PROPFIND", "/f", body, "Depth", "0"); strings.Count(got, "<D:activelock>") != 2 {
		t.Errorf("lockdiscovery: %s", got)
	}
}

func TestRefresh(t *testing.T) {
	b := newDAVBench(t, "")
	b.node("/", "d", newDirMode, "")
	b.node("/d", "f", newFileMode, "")
	b.node("/", "g", newFileMode, "")
	token := b.token(200, "/d", "exclusive", "user", "ann", "Timeout", "Second-90")
	other := b.token(200, "/g", "exclusive", "user", "ann")
	ifs := func(tokens ...string) string {
		var s []string
		for _, t := range tokens {
			s = append(s, "(<"+t+">)")
		}
		return strings.Join(s, " ")
	}
	tests := []struct {
		name, target, user, ifs, timeout string
		code                             int
		want                             string
	}{
		{"Root", "/d", "ann", ifs(token), "Second-120", 200, "Second-120<"},
		{"Member", "/d/f", "ann", ifs(token), "Second-120", 200, "<D:lockroot><D:href>/d</D:href></D:lockroot>"},
		{"KeepsTimeout", "/d", "ann", ifs(token), "", 200, "Second-120<"},
		{"Elsewhere", "/g", "ann", ifs(token), "", 412, ""},
		{"TaggedElsewhere", "/g", "ann", "</d> " + ifs(token), "", 412, "lock-token-matches-request-uri"},
		{"Unknown", "/d", "ann", ifs("urn:uuid:0"), "", 412, ""},
		{"TwoTokens", "/d", "ann", ifs(token, other), "", 400, ""},
		{"Stranger", "/d", "bob", ifs(token), "", 403, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := b.in(t)
			headers := []string{"user", tt.user, "If", tt.ifs}
			if tt.timeout != "" {
				headers = append(headers, "Timeout", tt.timeout)
			}
			resp := b.do("LOCK", tt.target, "", headers...)
			got, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.code || !strings.Contains(string(got), tt.want) {
				t.Errorf("status %d, want %d with %q\n%s", resp.StatusCode, tt.code, tt.want, got)
			}
			if resp.Header.Get("Lock-Token") != "" {
				t.Error("a refresh has a Lock-Token header")
			}
		})
	}
}

// TestRefreshDuringUpload refreshes a lock while a PUT under it is half-way.
func TestRefreshDuringUpload(t *testing.T) {
	s := newServer(t, "")
	s.want(201, "PUT", "/f", "old")
	token := s.lock("/f")
	body, feed := io.Pipe()
	done := make(chan answer, 1)
	go func() {
		a, err := s.try("PUT", "/f", body, "If: (<"+token+">)")
		if err != nil {
			t.Error(err)
		}
		done <- a
	}()
	if _, err := feed.Write([]byte("new ")); err != nil {
		t.Fatal(err)
	}
	s.want(200, "LOCK", "/f", "", "If: (<"+token+">)")
	if _, err := feed.Write([]byte("content")); err != nil {
		t.Fatal(err)
	}
	feed.Close()
	if a := <-done; a.code != http.StatusNoContent || s.content("/f") != "new content" {
		t.Errorf("PUT = %d, content %q", a.code, s.content("/f"))
	}
}

func TestUnlock(t *testing.T) {
	b := newDAVBench(t, "")
	b.node("/", "d", newDirMode, "")
	b.node("/d", "f", newFileMode, "")
	token := b.token(200, "/d", "exclusive", "user", "ann")
	tests := []struct {
		name, target, user, token string
		code                      int
		want                      string
	}{
		{"NoHeader", "/d", "ann", "", 400, ""},
		{"NoBrackets", "/d", "ann", token, 400, ""},
		{"Unknown", "/d", "ann", "<urn:uuid:0>", 409, "<D:lock-token-matches-request-uri/>"},
		{"Elsewhere", "/x", "ann", "<" + token + ">", 409, "<D:lock-token-matches-request-uri/>"},
		{"Stranger", "/d", "bob", "<" + token + ">", 403, ""},
		{"Member", "/d/f", "ann", "<" + token + ">", 204, ""},
		{"Again", "/d", "ann", "<" + token + ">", 409, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			headers := []string{"user", tt.user}
			if tt.token != "" {
				headers = append(headers, "Lock-Token", tt.token)
			}
			if got := b.in(t).want(tt.code, "UNLOCK", tt.target, "", headers...); !strings.Contains(got, tt.want) {
				t.Errorf("body %q lacks %q", got, tt.want)
			}
		})
	}
}

func TestLocksVanishWithTheirResource(t *testing.T) {
	b := newDAVBench(t, "")
	for _, name := range []string{"a", "b"} {
		b.node("/", name, newDirMode, "")
		b.node("/"+name, "f", newFileMode, "")
	}
	del := b.token(200, "/a/f", "exclusive")
	b.want(204, "DELETE", "/a", "", "If", "</a/f> (<"+del+">)")
	move := b.token(200, "/b/f", "exclusive")
	b.want(201, "MOVE", "/b", "", "Destination", "/c", "If", "</b/f> (<"+move+">)")
	if n := b.locks.Len(); n != 0 {
		t.Errorf("%d locks left", n)
	}
	b.want(201, "MKCOL", "/b", "")
	b.want(201, "PUT", "/b/f", "x")
	b.want(204, "PUT", "/c/f", "x")
}

func TestLockOfAFailedCreationIsTakenBack(t *testing.T) {
	b := newDAVBench(t, "")
	b.node("/", "d", newDirMode, "")
	b.poisonPath("/d")
	b.want(503, "LOCK", "/d/new", lockBody("exclusive"))
	if n := b.locks.Len(); n != 0 {
		t.Errorf("%d locks left of a LOCK that failed", n)
	}
}

func TestLockTableFaultsAreReported(t *testing.T) {
	for _, point := range []string{"davlock:append", "davlock:publish"} {
		t.Run(point, func(t *testing.T) {
			b := newDAVBench(t, "")
			b.node("/", "f", newFileMode, "")
			if err := b.st.ArmFault(context.Background(), "/", point, "panic"); err != nil {
				t.Fatal(err)
			}
			b.want(503, "LOCK", "/f", lockBody("exclusive"))
			b.want(503, "PUT", "/f", "x") // fail closed: the lock might be somebody's
			b.want(200, "GET", "/f", "")
			b.resetAll()
			for _, l := range b.st.Locks() {
				if l.Event != nil {
					t.Errorf("%s is poisoned after reset", l.Name)
				}
			}
			if err := b.locks.DropUnder("/"); err != nil {
				t.Fatal(err)
			}
			b.want(204, "PUT", "/f", "x")
		})
	}
}

// TestLocksOfAReadOnlyStore: its locks cannot be changed either, and the client is told
// to come back.
func TestLocksOfAReadOnlyStore(t *testing.T) {
	for _, cause := range []string{"the engine", "an option"} {
		t.Run(cause, func(t *testing.T) {
			st, eng, reopen := reopenable(t)
			s := serve(t, st, "")
			s.want(201, "PUT", "/f", "x")
			s.want(201, "PUT", "/g", "x")
			token := s.lock("/f")
			if cause == "the engine" {
				eng.failUpdates.Store(true)
			} else {
				st, _ = reopen(store.Options{ReadOnly: errors.New("to have a look")})
				s = serve(t, st, "")
			}
			for _, r := range [][]string{
				{"LOCK", "/g", lockBody("exclusive")},
				{"LOCK", "/f", "", "If: (<" + token + ">)"},
				{"UNLOCK", "/f", "", "Lock-Token: <" + token + ">"},
			} {
				if got := s.do(r[0], r[1], r[2], r[3:]...); got.code != 503 || got.header.Get("Retry-After") == "" {
					t.Errorf("%s %s = %d %v, want 503 with Retry-After", r[0], r[1], got.code, got.header)
				}
			}
			if n := st.DAVLocks().Len(); n != 1 {
				t.Errorf("%d locks, want 1", n)
			}
		})
	}
}

// reopenable opens a store on an engine that can fail, and returns what closes it
// and opens it again.
func reopenable(t *testing.T) (*store.Store, *failingEngine, func(store.Options) (*store.Store, *failingEngine)) {
	t.Helper()
	dir, blobs := t.TempDir(), storetest.NewMemBlobs()
	var st *store.Store
	open := func(o store.Options) (*store.Store, *failingEngine) {
		t.Helper()
		if st != nil {
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
		}
		db, err := pebble.Open(dir, pebble.Options{Create: true})
		if err != nil {
			t.Fatal(err)
		}
		eng := &failingEngine{Engine: db}
		o.Meta, o.Blobs, o.Reserve = eng, blobs, -1
		if st, err = store.Open(context.Background(), o); err != nil {
			t.Fatal(err)
		}
		return st, eng
	}
	t.Cleanup(func() { st.Close() })
	_, eng := open(store.Options{})
	return st, eng, open
}

// TestLocksOutliveAFailedLookup: only a resource that is known to be gone loses its lock.
func TestLocksOutliveAFailedLookup(t *testing.T) {
	st, _, reopen := reopenable(t)
	s := serve(t, st, "")
	s.make("/d", "tree", "x")
	s.lock("/d/f")
	st, eng := reopen(store.Options{}) // and nothing is in memory
	h := New(Options{Store: st})
	r := &request{ctx: context.Background(), now: st.Now()}
	eng.failReads.Store(true)
	h.dropVanished(r, "/d")
	eng.failReads.Store(false)
	if n := h.locks.Len(); n != 1 {
		t.Fatalf("%d locks after a failed lookup, want 1", n)
	}
	h.dropVanished(r, "/d")
	if n := h.locks.Len(); n != 1 {
		t.Fatalf("%d locks of a resource that is there, want 1", n)
	}
	d, err := st.LookupPath(r.ctx, "/d")
	if err == nil {
		err = st.Unlink(r.ctx, d.Ino, "f", nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.dropVanished(r, "/d")
	if n := h.locks.Len(); n != 0 {
		t.Errorf("%d locks of a resource that is gone", n)
	}
}

func TestParseTimeout(t *testing.T) {
	tests := []struct {
		in   []string
		want time.Duration
	}{
		{nil, 0},
		{[]string{""}, 0},
		{[]string{"Second-10"}, 10 * time.Second},
		{[]string{"Second-"}, 0},
		{[]string{"Second--1"}, 0},
		{[]string{"Second-0"}, 1},
		{[]string{"Infinite"}, -1},
		{[]string{"Extend", "second-7, Infinite"}, 7 * time.Second},
		{[]string{"Second-4294967295"}, 4294967295 * time.Second},
		{[]string{"Second-4294967296"}, -1},
	}
	for _, tt := range tests {
		if got := parseTimeout(tt.in); got != tt.want {
			t.Errorf("parseTimeout(%q) = %v, want %v", tt.in, got, tt.want)
		}
	}
}

// FuzzLockHeaders: no header panics the parsers, and a timeout is always one
// that the table can clamp.
func FuzzLockHeaders(f *testing.F) {
	f.Add("Infinite, Second-60", "<urn:uuid:0>")
	f.Fuzz(func(t *testing.T, timeout, token string) {
		got := store.ClampLockTimeout(parseTimeout([]string{timeout}))
		if got < store.MinLockTimeout || got > store.MaxLockTimeout {
			t.Fatalf("timeout %q is %v", timeout, got)
		}
		if inner, ok := parseCodedURL(token); ok && !strings.Contains(token, "<"+inner+">") {
			t.Fatalf("Lock-Token %q is %q", token, inner)
		}
	})
}

func TestLockExpiryFreesTheName(t *testing.T) {
	b := newDAVBench(t, "")
	b.node("/", "f", newFileMode, "")
	// A lock that ended a second ago, as its client would have left it.
	past := time.Now().Add(-store.MinLockTimeout - time.Second)
	if _, err := b.locks.Create(past, store.DAVLock{Path: "/f", Timeout: time.Second}); err != nil {
		t.Fatal(err)
	}
	b.want(204, "PUT", "/f", "x")
	if n := b.locks.Len(); n != 0 {
		t.Errorf("%d locks after a request met an expired one", n)
	}
}
