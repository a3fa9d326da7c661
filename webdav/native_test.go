package webdav

import (
	"context"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/webdav"

	"engramfs/store"
	"engramfs/store/blob/local"
)

// openNative opens a file of the server past the store, as a mount's client does.
func (s *server) openNative(p string, write bool) (*store.Handle, *os.File) {
	s.t.Helper()
	ctx := context.Background()
	a, err := s.store.LookupPath(ctx, p)
	if err != nil {
		s.t.Fatal(err)
	}
	h, err := s.store.Open(ctx, a.Ino, write)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { h.Close() })
	f, err := h.Native(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	return h, f
}

// TestGetOfAFileThatIsThenWritten writes to a file past the store between the promise
// of its digest and its first byte: the answer that is begun anew promises nothing.
func TestGetOfAFileThatIsThenWritten(t *testing.T) {
	dir := t.TempDir()
	files, err := local.Open(dir, local.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	blobs := &readHook{Backend: files}
	st, err := store.Open(context.Background(), store.Options{Meta: newFailingEngine(t), Blobs: blobs, Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	s := serve(t, st, "")
	s.want(201, "PUT", "/f", strings.Repeat("old ", 25_000))
	fn := func() {
		_, f := s.openNative("/f", true)
		if _, err := f.WriteAt([]byte("new "), 0); err != nil {
			t.Error(err)
		}
	}
	blobs.call.Store(&fn)
	got := s.want(200, "GET", "/f", "", "Want-Repr-Digest: sha-256=1")
	if blobs.call.Load() != nil || !strings.HasPrefix(got.body, "new old ") {
		t.Errorf("content begins with %.8q", got.body)
	}
	for _, name := range []string{"Etag", "Last-Modified", "Repr-Digest"} {
		if v := got.header.Get(name); v != "" {
			t.Errorf("%s: %s", name, v)
		}
	}
}

// TestNoValidatorWhileWrittenPastTheStore: the entity tag of before stands for none
// of the contents that a program writes past the store, in any condition.
func TestNoValidatorWhileWrittenPastTheStore(t *testing.T) {
	st := openDir(t, t.TempDir())
	t.Cleanup(func() { st.Close() })
	s := serve(t, st, "")
	old := strings.Repeat("old ", 25_000)
	s.want(201, "PUT", "/f", old)
	s.want(201, "PUT", "/other", "other")
	s.openNative("/f", false)
	before := s.want(200, "GET", "/f", "").header
	etag, date := before.Get("Etag"), before.Get("Last-Modified")
	if etag == "" || date == "" {
		t.Fatalf("a file that is only read past the store: %v", before)
	}
	h, f := s.openNative("/f", true)
	if _, err := f.WriteAt([]byte("new "), 0); err != nil {
		t.Fatal(err)
	}

	setDead := `<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><x xmlns="urn:x">1</x></D:prop></D:set></D:propertyupdate>`
	for _, c := range []struct {
		code             int
		method, target   string
		body             string
		condition, other string
	}{
		{200, "GET", "/f", "", "If-None-Match: " + etag, ""},
		{200, "GET", "/f", "", "If-None-Match: W/" + etag, ""},
		{200, "GET", "/f", "", "If-Modified-Since: " + date, ""},
		{200, "GET", "/f", "", "If-Range: " + etag, "Range: bytes=0-9"},
		{200, "GET", "/f", "", "If-Range: " + date, "Range: bytes=0-9"},
		{206, "GET", "/f", "", "Range: bytes=0-9", ""},
		{412, "GET", "/f", "", "If-Match: " + etag, ""},
		{412, "GET", "/f", "", "If-Unmodified-Since: " + date, ""},
		{200, "GET", "/f", "", "If-Match: *", ""},
		{304, "GET", "/f", "", "If-None-Match: *", ""},
		{412, "PUT", "/f", "lost", "If-Match: " + etag, ""},
		{412, "PUT", "/f", "lost", "If-Unmodified-Since: " + date, ""},
		{412, "PUT", "/f", "lost", "If-None-Match: *", ""},
		{412, "PUT", "/f", "lost", "If: ([" + etag + "])", ""},
		{412, "DELETE", "/f", "", "If-Match: " + etag, ""},
		{412, "MOVE", "/f", "", "If-Match: " + etag, "Destination: /n"},
		{412, "COPY", "/f", "", "If-Match: " + etag, "Destination: /n"},
		{412, "COPY", "/other", "", "If: </f> ([" + etag + "])", "Destination: /f"},
		{412, "PROPPATCH", "/f", setDead, "If-Match: " + etag, ""},
		{207, "PROPPATCH", "/f", setDead, "If-Match: *", ""},
	} {
		headers := []string{c.condition}
		if c.other != "" {
			headers = append(headers, c.other)
		}
		got := s.do(c.method, c.target, c.body, headers...)
		if got.code != c.code {
			t.Errorf("%s %s %q = %d, want %d", c.method, c.target, headers, got.code, c.code)
		}
		if got.header.Get("Etag") != "" || got.header.Get("Last-Modified") != "" {
			t.Errorf("%s %q has a validator: %v", c.method, headers, got.header)
		}
		if got.code == 200 && got.body != "new "+old[4:] {
			t.Errorf("%s %q: content begins with %.8q", c.method, headers, got.body)
		}
	}
	etagOnly := `<D:propfind xmlns:D="DAV:"><D:prop><D:getetag/><D:getcontentlength/></D:prop></D:propfind>`
	if got := s.want(207, "PROPFIND", "/f", etagOnly, "Depth: 0").body; strings.Contains(got, "<D:getetag>") || !strings.Contains(got, "404") {
		t.Errorf("PROPFIND: %s", got)
	}
	fi, err := s.handler.FileSystem().Stat(t.Context(), "/f")
	if err != nil {
		t.Fatal(err)
	}
	if tag, err := fi.(webdav.ETager).ETag(t.Context()); tag != "" || err != nil {
		t.Errorf("x/net's ETag %s, %v", tag, err)
	}

	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	after := s.want(200, "GET", "/f", "", "If-None-Match: "+etag).header.Get("Etag")
	if after == "" || after == etag {
		t.Errorf("ETag %q after the last writer has closed, %q before the first", after, etag)
	}
	s.want(304, "GET", "/f", "", "If-None-Match: "+after)
	s.want(204, "PUT", "/f", "mine", "If-Match: "+after)
}
