package webdav

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/blob/local"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

// server is a handler over a store of its own, behind a real socket.
type server struct {
	t       testing.TB
	store   *store.Store
	handler *Handler
	url     string // without a trailing slash, prefix included
	host    string
	client  *http.Client
	active  atomic.Int32 // requests being served
}

func newServer(t testing.TB, prefix string) *server {
	t.Helper()
	return serve(t, storetest.New(t), prefix)
}

// serve starts a server over an open store.
func serve(t testing.TB, s *store.Store, prefix string) *server {
	t.Helper()
	h := New(Options{Store: s, Prefix: prefix, Logger: slog.New(slog.DiscardHandler), Principal: func(r *http.Request) string {
		user, _, _ := r.BasicAuth()
		return user
	}})
	srv := &server{t: t, store: s, handler: h}
	hs := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		srv.active.Add(1)
		defer srv.active.Add(-1)
		h.ServeHTTP(w, r)
	}))
	hs.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	hs.Listener, hs.Config.ConnContext = CorkListener(hs.Listener), CorkContext
	hs.Start()
	t.Cleanup(hs.Close)
	client := &http.Client{
		Timeout:   20 * time.Second,
		Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 8},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	t.Cleanup(client.CloseIdleConnections)
	srv.url, srv.host, srv.client = hs.URL+prefix, strings.TrimPrefix(hs.URL, "http://"), client
	return srv
}

// answer is a response whose body was read.
type answer struct {
	code   int
	header http.Header
	body   string
}

// try sends a request; headers are "Name: value" lines. An error is the
// connection's.
func (s *server) try(method, target string, body io.Reader, headers ...string) (answer, error) {
	r, err := http.NewRequest(method, s.url+target, body)
	if err != nil {
		return answer{}, err
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if strings.EqualFold(name, "Host") {
			r.Host = value
			continue
		}
		r.Header.Add(name, value)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

// do is try for requests that must be answered.
func (s *server) do(method, target, body string, headers ...string) answer {
	s.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	a, err := s.try(method, target, r, headers...)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, target, err)
	}
	return a
}

// want is do with a check of the status.
func (s *server) want(code int, method, target, body string, headers ...string) answer {
	s.t.Helper()
	a := s.do(method, target, body, headers...)
	if a.code != code {
		s.t.Fatalf("%s %s %q = %d, want %d\n%s", method, target, headers, a.code, code, a.body)
	}
	return a
}

// raw sends bytes and returns all that comes back until the server closes.
func (s *server) raw(request string) string {
	s.t.Helper()
	c, err := net.Dial("tcp", s.host)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		s.t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		s.t.Fatalf("read answer: %v", err)
	}
	return string(b)
}

// lock takes an exclusive lock and returns its token.
func (s *server) lock(target string, headers ...string) string {
	s.t.Helper()
	a := s.do("LOCK", target, lockBody("exclusive"), append([]string{"Timeout: Second-600"}, headers...)...)
	if a.code != 200 && a.code != 201 {
		s.t.Fatalf("LOCK %s = %d\n%s", target, a.code, a.body)
	}
	return strings.Trim(a.header.Get("Lock-Token"), "<>")
}

// tree returns every path below dir with its content, "" for collections.
func (s *server) tree(dir string) map[string]string {
	s.t.Helper()
	all := map[string]string{}
	ctx := context.Background()
	a, err := s.store.LookupPath(ctx, dir)
	if err != nil {
		s.t.Fatal(err)
	}
	err = s.store.ReadDirPlus(ctx, a.Ino, "", func(name string, a *store.Attr) bool {
		p := strings.TrimSuffix(dir, "/") + "/" + name
		if a.IsDir() {
			all[p+"/"] = ""
			for k, v := range s.tree(p) {
				all[k] = v
			}
			return true
		}
		all[p] = s.content(p)
		return true
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// content reads a file from the store itself.
func (s *server) content(p string) string {
	s.t.Helper()
	ctx := context.Background()
	a, err := s.store.LookupPath(ctx, p)
	if err != nil {
		s.t.Fatal(err)
	}
	if a.IsSymlink() {
		target, err := s.store.Readlink(ctx, a.Ino)
		if err != nil {
			s.t.Fatal(err)
		}
		return "-> " + target
	}
	c, err := s.store.OpenContent(ctx, a.Ino)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// openDir opens the store in a directory, and makes it if there is none. The
// caller closes it.
func openDir(t testing.TB, dir string) *store.Store {
	t.Helper()
	eng, err := pebble.Open(filepath.Join(dir, "meta"), pebble.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := local.Open(filepath.Join(dir, "blobs"), local.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(context.Background(), store.Options{Meta: eng, Blobs: blobs, Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// failingEngine is an engine that can be made to fail.
type failingEngine struct {
	meta.Engine
	fail        atomic.Bool // what syncs
	failUpdates atomic.Bool
	failReads   atomic.Bool
}

func newFailingEngine(t testing.TB) *failingEngine {
	t.Helper()
	eng, err := pebble.Open(t.TempDir(), pebble.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	return &failingEngine{Engine: eng}
}

func (e *failingEngine) Update(fn func(meta.Txn) error) error {
	if e.failUpdates.Load() {
		return fmt.Errorf("%w: injected", meta.ErrReadOnly)
	}
	return e.Engine.Update(fn)
}

func (e *failingEngine) Get(key []byte) ([]byte, error) {
	if e.failReads.Load() {
		return nil, errors.New("injected")
	}
	return e.Engine.Get(key)
}

func (e *failingEngine) Sync() error {
	if e.fail.Load() {
		return fmt.Errorf("%w: injected", meta.ErrReadOnly)
	}
	return e.Engine.Sync()
}
