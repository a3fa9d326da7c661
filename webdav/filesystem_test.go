package webdav

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/net/webdav"

	"engramfs/store"
)

// xnet serves the bench's store through x/net's Handler.
func (b *davBench) xnet() http.Handler {
	h := &webdav.Handler{FileSystem: b.FileSystem(), LockSystem: b.LockSystem("")}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "LOCK" && r.Header.Get("Timeout") == "" {
			r.Header.Set("Timeout", "Second-600") // what LockSystem asks of a wrapper
		}
		h.ServeHTTP(w, r)
	})
}

// step is one request of a differential scenario.
type step struct {
	method, target, body string
	headers              []string // name, value pairs; TOKEN is the last lock's
	// xnet is the status of x/net's Handler where it differs, and why says
	// which of the two is right and by what.
	xnet int
	why  string
}

func TestAgreesWithXNet(t *testing.T) {
	set := `<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><c xmlns="urn:x">red</c></D:prop></D:set></D:propertyupdate>`
	tests := []struct {
		name  string
		steps []step
	}{
		{"Files", []step{
			{method: "PUT", target: "/f", body: "one"},
			{method: "GET", target: "/f"},
			{method: "HEAD", target: "/f"},
			{method: "PUT", target: "/f", body: "two", xnet: 201, why: "RFC 9110 section 9.3.4: 201 only for a new resource"},
			{method: "GET", target: "/f"},
			{method: "GET", target: "/f", headers: []string{"Range", "bytes=1-"}},
			{method: "GET", target: "/f", headers: []string{"If-None-Match", `*`}},
			{method: "PUT", target: "/x/f", body: "x"},
			{method: "DELETE", target: "/f"},
			{method: "DELETE", target: "/f"},
			{method: "GET", target: "/f"},
		}},
		{"Collections", []step{
			{method: "MKCOL", target: "/d"},
			{method: "MKCOL", target: "/d"},
			{method: "MKCOL", target: "/x/y"},
			{method: "MKCOL", target: "/e", body: "junk"},
			{method: "GET", target: "/d", xnet: 405, why: "browsers and Office ask for collections; here they get a listing"},
			{method: "PUT", target: "/d", body: "x", xnet: 404, why: "405 says that it exists and takes no PUT"},
			{method: "PUT", target: "/d/f", body: "x"},
			{method: "DELETE", target: "/d"},
			{method: "GET", target: "/d/f"},
		}},
		{"CopyMove", []step{
			{method: "PUT", target: "/a", body: "A"},
			{method: "PUT", target: "/b", body: "B"},
			{method: "COPY", target: "/a", headers: []string{"Destination", "/c"}},
			{method: "COPY", target: "/a", headers: []string{"Destination", "/c"}},
			{method: "COPY", target: "/a", headers: []string{"Destination", "/c", "Overwrite", "F"}},
			{method: "MOVE", target: "/a", headers: []string{"Destination", "/b", "Overwrite", "F"}},
			{method: "MOVE", target: "/a", headers: []string{"Destination", "/b", "Overwrite", "T"}},
			{method: "GET", target: "/b"},
			{method: "MOVE", target: "/b", headers: []string{"Destination", "/c"}, xnet: 412, why: "RFC 4918 section 10.6: without Overwrite it is T (Go issue 66059)"},
			{method: "MOVE", target: "/b", headers: []string{"Destination", "/c", "Overwrite", "T"}, xnet: 204, why: "ours has moved it in the step before"},
			{method: "MOVE", target: "/c", headers: []string{"Destination", "/c"}},
			{method: "COPY", target: "/c", headers: []string{"Destination", "/x/y"}},
			{method: "COPY", target: "/nope", headers: []string{"Destination", "/y"}},
			{method: "COPY", target: "/c", headers: []string{"Destination", "http://elsewhere.example/y"}},
			{method: "MKCOL", target: "/d"},
			{method: "MKCOL", target: "/d/sub"},
			{method: "PUT", target: "/d/sub/f", body: "F"},
			{method: "COPY", target: "/d", headers: []string{"Destination", "/e"}},
			{method: "GET", target: "/e/sub/f"},
			{method: "COPY", target: "/d", headers: []string{"Destination", "/shallow", "Depth", "0"}},
			{method: "GET", target: "/shallow/sub/f"},
			{method: "COPY", target: "/d", headers: []string{"Destination", "/z", "Depth", "1"}},
			{method: "MOVE", target: "/d", headers: []string{"Destination", "/g"}},
			{method: "GET", target: "/g/sub/f"},
		}},
		{"Properties", []step{
			{method: "PUT", target: "/f", body: "x"},
			{method: "MKCOL", target: "/d"},
			{method: "PROPPATCH", target: "/f", body: set},
			{method: "PROPPATCH", target: "/d", body: set},
			{method: "PROPPATCH", target: "/nope", body: set},
			{method: "PROPPATCH", target: "/f", body: "junk"},
			{method: "PROPFIND", target: "/f", body: namedProps, headers: []string{"Depth", "0"}},
			{method: "PROPFIND", target: "/", headers: []string{"Depth", "1"}},
			{method: "PROPFIND", target: "/nope", headers: []string{"Depth", "0"}},
			{method: "PROPFIND", target: "/", headers: []string{"Depth", "7"}},
			{method: "PROPFIND", target: "/", headers: []string{"Depth", "infinity"}, xnet: 207, why: "RFC 4918 section 9.1.1 lets a server refuse what costs the whole tree"},
			{method: "PROPFIND", target: "/f", body: "junk", headers: []string{"Depth", "0"}},
		}},
		{"Locks", []step{
			{method: "PUT", target: "/f", body: "x"},
			{method: "LOCK", target: "/f", body: lockBody("exclusive"), headers: []string{"Depth", "0"}},
			{method: "LOCK", target: "/f", body: lockBody("exclusive")},
			{method: "PUT", target: "/f", body: "y"},
			{method: "DELETE", target: "/f"},
			{method: "PUT", target: "/f", body: "y", headers: []string{"If", "(<TOKEN>)"}, xnet: 201, why: "RFC 9110 section 9.3.4"},
			{method: "PUT", target: "/f", body: "y", headers: []string{"If", "(<urn:uuid:nope>)"}},
			{method: "PUT", target: "/f", body: "y", headers: []string{"If", "(Not <urn:uuid:nope> <TOKEN>)"}, xnet: 201, why: "RFC 9110 section 9.3.4"},
			{method: "LOCK", target: "/f", headers: []string{"If", "(<TOKEN>)"}},
			{method: "LOCK", target: "/f", headers: []string{"If", "(<urn:uuid:nope>)"}},
			{method: "COPY", target: "/f", headers: []string{"Destination", "/g"}},
			{method: "MOVE", target: "/g", headers: []string{"Destination", "/f", "Overwrite", "T"}},
			{method: "MOVE", target: "/f", headers: []string{"Destination", "/h", "Overwrite", "T", "If", "(<TOKEN>)"}},
			{method: "LOCK", target: "/new", body: lockBody("exclusive")},
			{method: "GET", target: "/new"},
			{method: "UNLOCK", target: "/new", headers: []string{"Lock-Token", "<urn:uuid:nope>"}},
			{method: "UNLOCK", target: "/new", headers: []string{"Lock-Token", "nope"}},
			{method: "UNLOCK", target: "/new", headers: []string{"Lock-Token", "<TOKEN>"}},
			{method: "UNLOCK", target: "/new", headers: []string{"Lock-Token", "<TOKEN>"}},
			{method: "LOCK", target: "/x/new", body: lockBody("exclusive"), xnet: 500, why: "RFC 4918 section 9.10.6: 409"},
			{method: "LOCK", target: "/new", body: lockBody("shared"), xnet: 501, why: "x/net has no shared locks"},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ours, theirs := newDAVBench(t, ""), newDAVBench(t, "")
			play(t, tt.steps, ours, theirs)
			if got, want := listing(t, theirs), listing(t, ours); got != want {
				t.Errorf("trees differ: x/net's handler left\n%s\nours\n%s", got, want)
			}
		})
	}
}

// play sends each step to our handler over one store and to x/net's over another.
func play(t *testing.T, steps []step, ours, theirs *davBench) {
	t.Helper()
	handlers := []http.Handler{ours, theirs.xnet()}
	tokens := make([]string, len(handlers))
	for _, s := range steps {
		var codes []int
		var bodies []string
		for i, h := range handlers {
			r := httptest.NewRequest(s.method, "http://example.com"+s.target, strings.NewReader(s.body))
			for j := 0; j < len(s.headers); j += 2 {
				r.Header.Set(s.headers[j], strings.ReplaceAll(s.headers[j+1], "TOKEN", tokens[i]))
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if token, ok := parseCodedURL(w.Header().Get("Lock-Token")); ok {
				tokens[i] = token
			}
			codes, bodies = append(codes, w.Code), append(bodies, w.Body.String())
		}
		want := codes[0]
		if s.why != "" {
			want = s.xnet
		}
		if codes[1] != want || s.why != "" && codes[0] == codes[1] {
			t.Errorf("%s %s %q: ours %d, x/net's %d, expected difference %d (%s)", s.method, s.target, s.headers, codes[0], codes[1], s.xnet, s.why)
		}
		if s.method == "GET" && codes[0] < 300 && codes[1] < 300 && bodies[0] != bodies[1] {
			t.Errorf("GET %s: ours %q, x/net's %q", s.target, bodies[0], bodies[1])
		}
	}
}

// listing is a store's whole tree with content and dead properties.
func listing(t *testing.T, b *davBench) string {
	t.Helper()
	var out []string
	var walk func(dir store.Ino, p string)
	walk = func(dir store.Ino, p string) {
		err := b.st.ReadDirPlus(context.Background(), dir, "", func(name string, a *store.Attr) bool {
			ino, isDir := a.Ino, a.IsDir()
			line := fmt.Sprint(p, "/", name, " ", b.dead(p+"/"+name))
			if isDir {
				walk(ino, p+"/"+name)
			} else {
				line += " " + b.want(200, "GET", p+"/"+name, "")
			}
			out = append(out, line)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	walk(store.RootIno, "")
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// write puts a file through the FileSystem.
func write(t *testing.T, fsys webdav.FileSystem, name string, r io.Reader) error {
	t.Helper()
	f, err := fsys.OpenFile(context.Background(), name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	_, copyErr := io.Copy(f, r)
	return errors.Join(copyErr, f.Close())
}

func read(t *testing.T, fsys webdav.FileSystem, name string) string {
	t.Helper()
	f, err := fsys.OpenFile(context.Background(), name, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFileAbortedUploadKeepsOldContent(t *testing.T) {
	fsys := newDAVBench(t, "").FileSystem()
	if err := write(t, fsys, "/f", strings.NewReader("old")); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	broken := func() io.Reader { return io.MultiReader(strings.NewReader("new cont"), iotest.ErrReader(boom)) }
	if err := write(t, fsys, "/f", broken()); !errors.Is(err, boom) {
		t.Errorf("write = %v, want the reader's error", err)
	}
	if got := read(t, fsys, "/f"); got != "old" {
		t.Errorf("content %q after an aborted upload", got)
	}
	if err := write(t, fsys, "/g", broken()); !errors.Is(err, boom) {
		t.Errorf("write = %v", err)
	}
	if _, err := fsys.Stat(context.Background(), "/g"); !os.IsNotExist(err) {
		t.Errorf("an aborted upload created the file: %v", err)
	}
}

func TestFileStagedContentIsInvisible(t *testing.T) {
	ctx := context.Background()
	fsys := newDAVBench(t, "").FileSystem()
	if err := write(t, fsys, "/f", strings.NewReader("old")); err != nil {
		t.Fatal(err)
	}
	f, err := fsys.OpenFile(ctx, "/f", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("new")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, fsys, "/f"); got != "old" {
		t.Errorf("content %q before Close", got)
	}
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	etag, _ := fi.(webdav.ETager).ETag(ctx)
	if _, err := f.Write([]byte("x")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Write after Stat = %v, want fs.ErrClosed", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	now, err := fsys.Stat(ctx, "/f")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := now.(webdav.ETager).ETag(ctx); got != etag || read(t, fsys, "/f") != "new" {
		t.Errorf("ETag %s, and of the upload's Stat %s; content %q", got, etag, read(t, fsys, "/f"))
	}
	if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second Close = %v", err)
	}
}

func TestFileCopyIsAClone(t *testing.T) {
	ctx := context.Background()
	b := newDAVBench(t, "")
	fsys := b.FileSystem()
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := write(t, fsys, "/src", bytes.NewReader(big)); err != nil {
		t.Fatal(err)
	}
	b.patch("/src", `<D:set><D:prop><x:a>1</x:a></D:prop></D:set>`)
	src, err := fsys.OpenFile(ctx, "/src", os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := fsys.OpenFile(ctx, "/dst", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(dst, src)
	if err != nil || n != int64(len(big)) {
		t.Fatalf("Copy = %d, %v", n, err)
	}
	if src.(*file).content != nil {
		t.Error("the source was opened to be read")
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
	if read(t, fsys, "/dst") != string(big) || fmt.Sprint(b.dead("/dst")) != "[{urn:x}a=1]" {
		t.Errorf("the copy differs: %d bytes, properties %v", len(read(t, fsys, "/dst")), b.dead("/dst"))
	}
}

func TestFileInPlaceWrites(t *testing.T) {
	ctx := context.Background()
	fsys := newDAVBench(t, "").FileSystem()
	if err := write(t, fsys, "/f", strings.NewReader("0123456789")); err != nil {
		t.Fatal(err)
	}
	f, err := fsys.OpenFile(ctx, "/f", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(-3, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("abcdef")); err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil || fi.Size() != 13 {
		t.Errorf("Stat = %v, %v, want 13 bytes", fi.Size(), err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f); err != nil || string(got) != "0123456abcdef" {
		t.Errorf("read back %q, %v", got, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f, err = fsys.OpenFile(ctx, "/f", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("!")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(make([]byte, 1)); !os.IsPermission(err) {
		t.Errorf("Read of a write-only file = %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, fsys, "/f"); got != "0123456abcdef!" {
		t.Errorf("content %q", got)
	}
}

func TestFileSystemErrors(t *testing.T) {
	ctx := context.Background()
	fsys := newDAVBench(t, "").FileSystem()
	if err := errors.Join(fsys.Mkdir(ctx, "/d", 0o755), write(t, fsys, "/f", strings.NewReader("x")), write(t, fsys, "/d/g", strings.NewReader("x"))); err != nil {
		t.Fatal(err)
	}
	open := func(name string, flag int) error {
		f, err := fsys.OpenFile(ctx, name, flag, 0o644)
		if err == nil {
			return f.Close()
		}
		return err
	}
	tests := []struct {
		name string
		err  error
		is   func(error) bool
	}{
		{"MkdirExists", fsys.Mkdir(ctx, "/d", 0o755), os.IsExist},
		{"MkdirRoot", fsys.Mkdir(ctx, "/", 0o755), os.IsExist},
		{"MkdirParentMissing", fsys.Mkdir(ctx, "/x/y", 0o755), os.IsNotExist},
		{"StatMissing", second(fsys.Stat(ctx, "/x")), os.IsNotExist},
		{"OpenMissing", open("/x", os.O_RDONLY), os.IsNotExist},
		{"OpenParentMissing", open("/x/y", os.O_RDWR|os.O_CREATE|os.O_TRUNC), os.IsNotExist},
		{"OpenExclusive", open("/f", os.O_RDWR|os.O_CREATE|os.O_EXCL), os.IsExist},
		{"TruncateDir", open("/d", os.O_RDWR|os.O_TRUNC), func(err error) bool { return errors.Is(err, store.ErrIsDir) }},
		{"TruncateReadOnly", open("/f", os.O_RDONLY|os.O_TRUNC), func(err error) bool { return errors.Is(err, fs.ErrInvalid) }},
		{"RemoveRoot", fsys.RemoveAll(ctx, "/"), os.IsPermission},
		{"RenameMissing", fsys.Rename(ctx, "/x", "/y"), os.IsNotExist},
		{"RenameRoot", fsys.Rename(ctx, "/", "/y"), os.IsPermission},
		{"RenameOntoFullDir", fsys.Rename(ctx, "/f", "/d"), func(err error) bool { return errors.Is(err, store.ErrIsDir) }},
		{"RemoveMissing", fsys.RemoveAll(ctx, "/x"), func(err error) bool { return err == nil }},
		{"OpenDirForWriting", open("/d", os.O_RDWR), func(err error) bool { return err == nil }}, // x/net's PROPPATCH
		{"Create", open("/new", os.O_RDWR|os.O_CREATE), func(err error) bool { return err == nil }},
	}
	for _, tt := range tests {
		if !tt.is(tt.err) {
			t.Errorf("%s = %v", tt.name, tt.err)
		}
	}
	if _, err := fsys.Stat(ctx, "/new"); err != nil {
		t.Errorf("O_CREATE made nothing: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestFileReaddirInPages(t *testing.T) {
	ctx := context.Background()
	b := newDAVBench(t, "")
	b.fill("d", 25)
	f, err := b.FileSystem().OpenFile(ctx, "/d", os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for {
		infos, err := f.Readdir(10)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || len(infos) > 10 {
			t.Fatal(len(infos), err)
		}
		for _, fi := range infos {
			names = append(names, fi.Name())
		}
	}
	if len(names) != 25 || !slices.IsSorted(names) {
		t.Errorf("%d names: %v", len(names), names)
	}
	if infos, err := f.Readdir(0); len(infos) != 0 || err != nil {
		t.Errorf("Readdir(0) at the end = %d, %v", len(infos), err)
	}
}

func TestFileInfoNeedsNoContent(t *testing.T) {
	ctx := context.Background()
	fsys := newDAVBench(t, "").FileSystem()
	if err := write(t, fsys, "/f.html", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	f, err := fsys.OpenFile(ctx, "/f.html", os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	ctype, _ := fi.(webdav.ContentTyper).ContentType(ctx)
	if !strings.HasPrefix(ctype, "text/html") || f.(*file).content != nil {
		t.Errorf("content type %q, opened %v", ctype, f.(*file).content != nil)
	}
}

func TestFileDeadProps(t *testing.T) {
	ctx := context.Background()
	b := newDAVBench(t, "")
	fsys := b.FileSystem()
	if err := write(t, fsys, "/f", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	f, err := fsys.OpenFile(ctx, "/f", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	holder := f.(webdav.DeadPropsHolder)
	name := xml.Name{Space: "urn:x", Local: "a"}
	set := webdav.Proppatch{Props: []webdav.Property{{XMLName: name, Lang: "de", InnerXML: []byte("<b/>")}}}
	live := webdav.Proppatch{Props: []webdav.Property{{XMLName: xml.Name{Space: davNS, Local: "getetag"}}}}
	stats, err := holder.Patch([]webdav.Proppatch{set, live})
	if err != nil || len(stats) != 2 || stats[0].Status != 424 || stats[1].Status != 403 {
		t.Errorf("Patch with a protected property = %+v, %v", stats, err)
	}
	if stats, err = holder.Patch([]webdav.Proppatch{set}); err != nil || len(stats) != 1 || stats[0].Status != 200 {
		t.Errorf("Patch = %+v, %v", stats, err)
	}
	props, err := holder.DeadProps()
	if p := props[name]; err != nil || len(props) != 1 || p.Lang != "de" || string(p.InnerXML) != "<b/>" {
		t.Errorf("DeadProps = %+v, %v", props, err)
	}
}

func TestLockSystem(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	b := newDAVBench(t, "")
	b.node("/", "f", newFileMode, "")
	ls, other := b.LockSystem("ann"), b.LockSystem("bob")
	token, err := ls.Create(now, webdav.LockDetails{Root: "/f", Duration: time.Minute, OwnerXML: "<a:b/>", ZeroDepth: true})
	if err != nil {
		t.Fatal(err)
	}
	if l, _ := b.locks.Get(now, token); l.Owner != "&lt;a:b/&gt;" {
		t.Errorf("an owner with an undeclared prefix is kept as %q", l.Owner)
	}
	tok := webdav.Condition{Token: token}
	etag := webdav.Condition{ETag: func() string { a, _ := b.st.LookupPath(context.Background(), "/f"); return a.ETag() }()}
	not := func(c webdav.Condition) webdav.Condition { c.Not = true; return c }
	nope := webdav.Condition{Token: "urn:uuid:nope"}
	confirm := []struct {
		name         string
		ls           webdav.LockSystem
		name0, name1 string
		conds        []webdav.Condition
		ok           bool
	}{
		{"Holder", ls, "/f", "", []webdav.Condition{tok}, true},
		{"SourceOnly", ls, "/f", "/free", []webdav.Condition{tok}, true},
		{"DestinationOnly", ls, "/free", "/f", []webdav.Condition{tok}, true},
		{"NoToken", ls, "/f", "", nil, false},
		{"Stranger", other, "/f", "", []webdav.Condition{tok}, false},
		{"Unknown", ls, "/f", "", []webdav.Condition{nope}, false},
		{"NotUnknown", ls, "/f", "", []webdav.Condition{not(nope), tok}, true},
		{"NotHeld", ls, "/f", "", []webdav.Condition{not(tok)}, false},
		{"ETagAndToken", ls, "/f", "", []webdav.Condition{etag, tok}, true},
		{"ETagAlone", ls, "/f", "", []webdav.Condition{etag}, false},
		{"NotETag", ls, "/f", "", []webdav.Condition{not(etag), tok}, false},
		{"Unlocked", ls, "/free", "", nil, true},
	}
	for _, tt := range confirm {
		release, err := tt.ls.Confirm(now, tt.name0, tt.name1, tt.conds...)
		if (err == nil) != tt.ok || err != nil && err != webdav.ErrConfirmationFailed {
			t.Errorf("Confirm %s = %v, want ok %v", tt.name, err, tt.ok)
		}
		if (release == nil) == (err == nil) {
			t.Errorf("Confirm %s: release and error are not exclusive", tt.name)
		}
	}
	if _, err := other.Create(now, webdav.LockDetails{Root: "/", Duration: time.Minute}); err != webdav.ErrLocked {
		t.Errorf("conflicting Create = %v", err)
	}
	if _, err := other.Refresh(now, token, time.Minute); err != webdav.ErrNoSuchLock {
		t.Errorf("Refresh by a stranger = %v", err)
	}
	if err := other.Unlock(now, token); err != webdav.ErrForbidden {
		t.Errorf("Unlock by a stranger = %v", err)
	}
	if d, err := ls.Refresh(now, token, 2*time.Minute); err != nil || d.Duration != 2*time.Minute || d.Root != "/f" {
		t.Errorf("Refresh = %+v, %v", d, err)
	}
	temporary := webdav.LockDetails{Root: "/free", Duration: -1, ZeroDepth: true}
	for range 2 { // two requests at once do not refuse each other
		if _, err := ls.Create(now, temporary); err != nil {
			t.Errorf("temporary lock = %v", err)
		}
	}
	temporary.Root = "/f"
	if _, err := ls.Create(now, temporary); err != webdav.ErrLocked {
		t.Errorf("temporary lock on a locked resource = %v", err)
	}
	if err := errors.Join(ls.Unlock(now, temporaryToken), ls.Unlock(now, token)); err != nil {
		t.Errorf("Unlock = %v", err)
	}
	if err := ls.Unlock(now, token); err != webdav.ErrNoSuchLock {
		t.Errorf("second Unlock = %v", err)
	}
}
