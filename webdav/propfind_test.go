package webdav

import (
	"context"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"engramfs/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

// multistatusXML is a 207 body as a client of another make would read it.
type multistatusXML struct {
	Responses []struct {
		Href     string `xml:"DAV: href"`
		Propstat []struct {
			Status string `xml:"DAV: status"`
			Prop   struct {
				Any []struct {
					XMLName xml.Name
					Inner   string `xml:",innerxml"`
				} `xml:",any"`
			} `xml:"DAV: prop"`
			Error string `xml:"DAV: error"`
		} `xml:"DAV: propstat"`
	} `xml:"DAV: response"`
}

// props maps "href {space}local" to "status content".
func (b *davBench) props(method, target, body string, headers ...string) map[string]string {
	b.t.Helper()
	text := b.want(http.StatusMultiStatus, method, target, body, headers...)
	var m multistatusXML
	if err := xml.Unmarshal([]byte(text), &m); err != nil {
		b.t.Fatalf("%s %s: %v\n%s", method, target, err, text)
	}
	found := map[string]string{}
	for _, r := range m.Responses {
		for _, ps := range r.Propstat {
			code := strings.Fields(ps.Status)[1]
			for _, p := range ps.Prop.Any {
				found[r.Href+" {"+p.XMLName.Space+"}"+p.XMLName.Local] = strings.TrimSpace(code + " " + p.Inner)
			}
		}
	}
	return found
}

// golden compares got with a file, after putting what differs from run to run
// in a fixed form.
func golden(t *testing.T, name, got string) {
	t.Helper()
	got = regexp.MustCompile(`"[0-9a-z]+-[0-9a-z]+-([0-9a-z]+)"`).ReplaceAllString(got, `"ETAG-$1"`)
	got = regexp.MustCompile(`urn:uuid:[0-9a-f-]{36}`).ReplaceAllString(got, "urn:uuid:TOKEN")
	got = strings.ReplaceAll(got, "<D:response>", "\n<D:response>")
	got = strings.ReplaceAll(got, "<D:propstat>", "\n  <D:propstat>")
	file := filepath.Join("testdata", "golden", name+".xml")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// node creates an inode with fixed times.
func (b *davBench) node(dir, name string, mode uint32, target string) store.Attr {
	b.t.Helper()
	ctx := context.Background()
	d, err := b.st.LookupPath(ctx, dir)
	if err != nil {
		b.t.Fatal(err)
	}
	a, err := b.st.Create(ctx, d.Ino, name, store.NewNode{Mode: mode, Target: target})
	if err != nil {
		b.t.Fatal(err)
	}
	b.stamp(a.Ino)
	return a
}

// stamp gives an inode fixed times.
func (b *davBench) stamp(ino store.Ino) {
	b.t.Helper()
	mtime, btime := time.Date(2024, 2, 29, 12, 30, 45, 0, time.UTC), time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	if _, err := b.st.SetAttr(context.Background(), ino, store.SetAttr{Mtime: &mtime, Atime: &btime, Btime: &btime}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *davBench) ino(p string) store.Ino {
	b.t.Helper()
	a, err := b.st.LookupPath(context.Background(), p)
	if err != nil {
		b.t.Fatal(err)
	}
	return a.Ino
}

// galleryBench is a tree with one of everything.
func galleryBench(t *testing.T) *davBench {
	b := newDAVBench(t, "/dav")
	b.node("/", "d", newDirMode, "")
	b.node("/d", "sub & dir", newDirMode, "")
	f := b.node("/d", "ä <b>.txt", newFileMode, "")
	b.node("/d", "link", store.ModeSymlink|0o777, "sub & dir")
	b.node("/d", "out", store.ModeSymlink|0o777, "../../etc")
	b.node("/d", "bad\xffname", newFileMode, "")
	attrs := map[string][]byte{
		"user.dav.{urn:x}color": []byte("<c>red</c>"),
		"user.dav.{urn:x}torn":  []byte("<c>red"),
		"user.other":            []byte("not a property"),
	}
	if _, err := b.st.PatchXattrs(context.Background(), f.Ino, attrs, store.SetAttr{}, nil); err != nil {
		t.Fatal(err)
	}
	b.stamp(b.ino("/d"))
	return b
}

func TestPropfindGolden(t *testing.T) {
	b := galleryBench(t)
	tests := []struct{ name, target, depth, body string }{
		{"propfind-allprop", "/dav/d/", "1", ""},
		{"propfind-named", "/dav/d", "1", namedProps},
		{"propfind-propname", "/dav/d/%C3%A4%20%3Cb%3E.txt", "0", `<D:propfind xmlns:D="DAV:"><D:propname/></D:propfind>`},
		{"propfind-missing", "/dav/d", "0", `<D:propfind xmlns:D="DAV:"><D:prop><D:getcontentlength/><x/><y xmlns="urn:&quot;y"/></D:prop></D:propfind>`},
		{"propfind-locks", "/dav/d", "0", `<D:propfind xmlns:D="DAV:"><D:prop><D:supportedlock/><D:lockdiscovery/></D:prop></D:propfind>`},
		{"propfind-include", "/dav/d", "0", `<D:propfind xmlns:D="DAV:"><D:allprop/><D:include><D:displayname/><D:getetag/></D:include></D:propfind>`},
		{"propfind-win32", "/dav/d/link", "0", `<D:propfind xmlns:D="DAV:" xmlns:W="urn:schemas-microsoft-com:"><D:prop><W:Win32CreationTime/><W:Win32LastModifiedTime/><W:Win32LastAccessTime/><D:lastmodified/></D:prop></D:propfind>`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := b.in(t).want(http.StatusMultiStatus, "PROPFIND", tt.target, tt.body, "Depth", tt.depth)
			if err := wellFormed([]byte(got)); err != nil {
				t.Fatalf("%v\n%s", err, got)
			}
			golden(t, tt.name, got)
		})
	}
}

func TestPropfindRefused(t *testing.T) {
	b := galleryBench(t)
	tests := []struct {
		name, target, depth, body string
		code                      int
		want                      string
	}{
		{"Infinity", "/dav/d", "infinity", "", 403, "<D:propfind-finite-depth/>"},
		{"InfinityAnyCase", "/dav/d", "Infinity", "", 403, "<D:propfind-finite-depth/>"},
		{"NoDepth", "/dav/d", "", "", 403, "<D:propfind-finite-depth/>"},
		{"BadDepth", "/dav/d", "2", "", 400, ""},
		{"Missing", "/dav/x", "0", "", 404, ""},
		{"MissingParent", "/dav/x/y", "0", "", 404, ""},
		{"LinkOut", "/dav/d/out", "0", "", 404, ""},
		{"NotXML", "/dav/d", "0", "junk", 400, ""},
		{"Cut", "/dav/d", "0", namedProps[:60], 400, ""},
		{"EmptyPrefix", "/dav/d", "0", `<D:propfind xmlns:D="DAV:" xmlns:x=""><D:allprop/></D:propfind>`, 400, ""},
		{"WrongRoot", "/dav/d", "0", `<D:prop xmlns:D="DAV:"/>`, 400, ""},
		{"WrongNamespace", "/dav/d", "0", `<propfind><allprop/></propfind>`, 400, ""},
		{"Both", "/dav/d", "0", `<D:propfind xmlns:D="DAV:"><D:allprop/><D:propname/></D:propfind>`, 400, ""},
		{"Neither", "/dav/d", "0", `<D:propfind xmlns:D="DAV:"/>`, 400, ""},
		{"TooLarge", "/dav/d", "0", `<D:propfind xmlns:D="DAV:">` + strings.Repeat(" ", DefaultMaxXMLBody), 413, ""},
		{"TooManyNames", "/dav/d", "0", `<D:propfind xmlns:D="DAV:"><D:prop>` + strings.Repeat("<a/>", maxPropNames+1) + "</D:prop></D:propfind>", 400, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := b.in(t)
			var headers []string
			if tt.depth != "" {
				headers = []string{"Depth", tt.depth}
			}
			if got := b.want(tt.code, "PROPFIND", tt.target, tt.body, headers...); !strings.Contains(got, tt.want) {
				t.Errorf("body %q lacks %q", got, tt.want)
			}
		})
	}
}

func TestPropfindOfFileNeedsNoDepth(t *testing.T) {
	b := galleryBench(t)
	got := b.props("PROPFIND", "/dav/d/%C3%A4%20%3Cb%3E.txt", "")
	if got["/dav/d/%C3%A4%20%3Cb%3E.txt {DAV:}getcontentlength"] != "200 0" {
		t.Errorf("props = %v", got)
	}
}

func TestPropfindMinimalLeavesOutMissing(t *testing.T) {
	b := galleryBench(t)
	body := `<D:propfind xmlns:D="DAV:"><D:prop><D:resourcetype/><nope/></D:prop></D:propfind>`
	for _, header := range [][]string{{"Prefer", "respond-async, return=minimal"}, {"Brief", "t"}} {
		got := b.props("PROPFIND", "/dav/d", body, append(header, "Depth", "0")...)
		if len(got) != 1 || got["/dav/d/ {DAV:}resourcetype"] != "200 <D:collection/>" {
			t.Errorf("%s: props = %v", header, got)
		}
	}
}

func TestPropfindQuota(t *testing.T) {
	b := galleryBench(t)
	body := `<D:propfind xmlns:D="DAV:"><D:prop><D:quota-available-bytes/><D:quota-used-bytes/></D:prop></D:propfind>`
	got := b.props("PROPFIND", "/dav/d", body, "Depth", "1")
	st, err := b.st.StatFS(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprint("200 ", st.Free); got["/dav/d/ {DAV:}quota-available-bytes"] != want {
		t.Errorf("quota-available-bytes = %q, want %q", got["/dav/d/ {DAV:}quota-available-bytes"], want)
	}
	if got["/dav/d/%C3%A4%20%3Cb%3E.txt {DAV:}quota-used-bytes"] != "404" {
		t.Errorf("a file has quota: %v", got)
	}
	for name := range b.props("PROPFIND", "/dav/d", "", "Depth", "0") {
		if strings.Contains(name, "quota") {
			t.Errorf("allprop has %s", name)
		}
	}
}

// TestPropfindListsEveryMemberOnce crosses the chunks in which the answer is
// written and the directory is read.
func TestPropfindListsEveryMemberOnce(t *testing.T) {
	b := newDAVBench(t, "")
	const n = 1500
	b.fill("d", n)
	got := b.props("PROPFIND", "/d", `<D:propfind xmlns:D="DAV:"><D:prop><D:displayname/></D:prop></D:propfind>`, "Depth", "1")
	if len(got) != n+1 {
		t.Errorf("%d responses, want %d", len(got), n+1)
	}
	for i := range n {
		name := fmt.Sprintf("file-%05d.txt", i)
		if got["/d/"+name+" {DAV:}displayname"] != "200 "+name {
			t.Fatalf("%s is missing", name)
		}
	}
}

// slowWriter lets a test act between the parts of an answer.
type slowWriter struct {
	discard
	parts int
	each  func(part int) error
}

func (w *slowWriter) Write(p []byte) (int, error) {
	w.parts++
	if err := w.each(w.parts); err != nil {
		return 0, err
	}
	return w.discard.Write(p)
}

func TestPropfindStopsWhenTheClientIsGone(t *testing.T) {
	b := newDAVBench(t, "")
	b.fill("d", 500)
	w := &slowWriter{discard: discard{header: http.Header{}}, each: func(int) error { return io.ErrClosedPipe }}
	r := httptest.NewRequest("PROPFIND", "/d", nil)
	r.Header.Set("Depth", "1")
	defer func() {
		if v := recover(); v != http.ErrAbortHandler {
			t.Errorf("panic value %v, want http.ErrAbortHandler", v)
		}
		if w.parts != 1 {
			t.Errorf("%d writes to a client that is gone", w.parts)
		}
	}()
	b.ServeHTTP(w, r)
}

func TestPropfindSkipsMembersThatVanish(t *testing.T) {
	const n, kept = 1200, 100
	b := newDAVBench(t, "")
	b.fill("d", n)
	dir := b.ino("/d")
	var out strings.Builder
	w := &slowWriter{discard: discard{header: http.Header{}}}
	w.each = func(part int) error {
		for i := kept; i < n && part == 1; i++ {
			if err := b.st.Unlink(context.Background(), dir, fmt.Sprintf("file-%05d.txt", i), nil); err != nil {
				return err
			}
		}
		return nil
	}
	r := httptest.NewRequest("PROPFIND", "/d", nil)
	r.Header.Set("Depth", "1")
	b.ServeHTTP(&tee{w, &out}, r)
	if err := wellFormed([]byte(out.String())); err != nil || w.code != http.StatusMultiStatus {
		t.Errorf("status %d, %v", w.code, err)
	}
	// The part of the directory that was read ahead may still show.
	if got := strings.Count(out.String(), "<D:response>"); got < kept || got >= n {
		t.Errorf("%d responses", got)
	}
}

// tee keeps what is written.
type tee struct {
	http.ResponseWriter
	out *strings.Builder
}

func (w *tee) Write(p []byte) (int, error) {
	w.out.Write(p)
	return w.ResponseWriter.Write(p)
}

// poisonPath makes a drill strike the inode at p.
func (b *davBench) poisonPath(p string) {
	b.t.Helper()
	ctx := context.Background()
	if err := b.st.ArmFault(ctx, p, "", "panic"); err != nil {
		b.t.Fatal(err)
	}
	now := time.Now()
	if _, err := b.st.SetAttr(ctx, b.ino(p), store.SetAttr{Mtime: &now}); err == nil {
		b.t.Fatal("the drill did not strike")
	}
	b.t.Cleanup(func() {
		for _, l := range b.st.Locks() {
			if l.Event != nil {
				if _, err := b.st.ResetLock(ctx, l.Name, l.Gen, false); err != nil {
					b.t.Error(err)
				}
			}
		}
	})
}

func TestPropfindOfPoisonedCollectionSaysSo(t *testing.T) {
	b := galleryBench(t)
	b.poisonPath("/d")
	resp := b.do("PROPFIND", "/dav/d", namedProps, "Depth", "1")
	lock := fmt.Sprintf("inode:%d; gen=", b.ino("/d"))
	if got := resp.Header.Get("EngramFS-Degraded"); !strings.HasPrefix(got, lock) || resp.StatusCode != 207 {
		t.Errorf("status %d, EngramFS-Degraded %q, want %q", resp.StatusCode, got, lock)
	}
	if got := resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q", got)
	}
}

func TestPropfindOfPoisonedMemberHasNoETag(t *testing.T) {
	b := galleryBench(t)
	b.node("/d", "ok.txt", newFileMode, "")
	b.node("/d", "torn.txt", newFileMode, "")
	b.poisonPath("/d/torn.txt")
	got := b.props("PROPFIND", "/dav/d", namedProps, "Depth", "1")
	if v := got["/dav/d/torn.txt {DAV:}getetag"]; v != "404" {
		t.Errorf("getetag of the poisoned member = %q, want 404", v)
	}
	if v := got["/dav/d/torn.txt {DAV:}getcontentlength"]; v != "200 0" {
		t.Errorf("getcontentlength of the poisoned member = %q", v)
	}
	if v := got["/dav/d/ok.txt {DAV:}getetag"]; !strings.HasPrefix(v, "200 ") {
		t.Errorf("getetag of a healthy member = %q", v)
	}
}

func TestPropfindWithPoisonedLockTable(t *testing.T) {
	b := galleryBench(t)
	if err := b.st.ArmFault(context.Background(), "/", "davlock:append", "panic"); err != nil {
		t.Fatal(err)
	}
	b.want(503, "LOCK", "/dav/d", lockBody("exclusive"), "Depth", "0")
	t.Cleanup(func() { b.resetAll() })
	body := `<D:propfind xmlns:D="DAV:"><D:prop><D:lockdiscovery/><D:resourcetype/></D:prop></D:propfind>`
	got := b.props("PROPFIND", "/dav/d", body, "Depth", "0")
	if got["/dav/d/ {DAV:}lockdiscovery"] != "503" || got["/dav/d/ {DAV:}resourcetype"] != "200 <D:collection/>" {
		t.Errorf("props = %v", got)
	}
}

func (b *davBench) resetAll() {
	for _, l := range b.st.Locks() {
		if l.Event != nil {
			if _, err := b.st.ResetLock(context.Background(), l.Name, l.Gen, false); err != nil {
				b.t.Error(err)
			}
		}
	}
}

// TestPropfindMemory lists directories of two sizes: what a listing holds at
// once must not grow with the number of entries.
func TestPropfindMemory(t *testing.T) {
	b := newDAVBench(t, "")
	peak := func(dir string) uint64 {
		var most uint64
		w := &slowWriter{discard: discard{header: http.Header{}}, each: func(part int) error {
			if part%4 == 1 {
				runtime.GC()
				var ms runtime.MemStats
				runtime.ReadMemStats(&ms)
				most = max(most, ms.HeapAlloc)
			}
			return nil
		}}
		r := httptest.NewRequest("PROPFIND", dir, nil)
		r.Header.Set("Depth", "1")
		runtime.GC()
		var before runtime.MemStats
		runtime.ReadMemStats(&before)
		b.ServeHTTP(w, r)
		return most - min(most, before.HeapAlloc)
	}
	b.fill("small", 500)
	b.fill("large", 5000)
	peak("/large") // caches fill
	small, large := peak("/small"), peak("/large")
	if large > small+1<<20 { // the answer has 2 MiB
		t.Errorf("a listing of 5,000 holds %d bytes at once, of 500 %d", large, small)
	}
}

func TestPropPatchGolden(t *testing.T) {
	tests := []struct{ name, body string }{
		{"proppatch-set", `<D:propertyupdate xmlns:D="DAV:" xmlns:W="urn:schemas-microsoft-com:"><D:set><D:prop>` +
			`<x xmlns="urn:x">1</x><W:Win32FileAttributes>00000020</W:Win32FileAttributes></D:prop></D:set></D:propertyupdate>`},
		{"proppatch-protected", `<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><a/></D:prop></D:set>` +
			`<D:remove><D:prop><D:getetag/></D:prop></D:remove><D:set><D:prop><D:resourcetype/><D:creationdate>junk</D:creationdate></D:prop></D:set></D:propertyupdate>`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := galleryBench(t)
			golden(t, tt.name, b.want(207, "PROPPATCH", "/dav/d/sub%20&%20dir", tt.body))
		})
	}
}

// patch sends a PROPPATCH with these instructions.
func (b *davBench) patch(target, instructions string, headers ...string) map[string]string {
	b.t.Helper()
	return b.props("PROPPATCH", target, `<D:propertyupdate xmlns:D="DAV:" xmlns:x="urn:x" xmlns:W="urn:schemas-microsoft-com:">`+
		instructions+`</D:propertyupdate>`, headers...)
}

// dead returns the extended attributes of a path that are dead properties.
func (b *davBench) dead(p string) []string {
	b.t.Helper()
	attrs, err := b.st.Xattrs(context.Background(), b.ino(p))
	if err != nil {
		b.t.Fatal(err)
	}
	var all []string
	for k, v := range attrs {
		if strings.HasPrefix(k, deadPrefix) {
			all = append(all, strings.TrimPrefix(k, deadPrefix)+"="+string(v))
		}
	}
	slices.Sort(all)
	return all
}

func TestPropPatchDocumentOrder(t *testing.T) {
	b := newDAVBench(t, "")
	b.node("/", "f", newFileMode, "")
	set := func(v string) string { return `<D:set><D:prop><x:a>` + v + `</x:a></D:prop></D:set>` }
	remove := `<D:remove><D:prop><x:a/></D:prop></D:remove>`
	for _, tt := range []struct{ doc, want string }{
		{set("1") + set("2"), "[{urn:x}a=2]"},
		{set("1") + remove, "[]"},
		{remove + set("3"), "[{urn:x}a=3]"},
		{remove, "[]"},
		{remove, "[]"}, // removing what is not there is no error
	} {
		if got := b.patch("/f", tt.doc); got["/f {urn:x}a"] != "200" {
			t.Errorf("%s: %v", tt.doc, got)
		}
		if got := fmt.Sprint(b.dead("/f")); got != tt.want {
			t.Errorf("after %s: %s, want %s", tt.doc, got, tt.want)
		}
	}
}

func TestPropPatchIsAllOrNothing(t *testing.T) {
	b := newDAVBench(t, "")
	b.node("/", "f", newFileMode, "")
	before := b.want(200, "GET", "/f", "")
	got := b.patch("/f", `<D:set><D:prop><x:a>1</x:a><W:Win32LastModifiedTime>Thu, 01 Jan 2015 00:00:00 GMT</W:Win32LastModifiedTime></D:prop></D:set>`+
		`<D:set><D:prop><D:getetag>"x"</D:getetag></D:prop></D:set><D:remove><D:prop><x:b/></D:prop></D:remove>`)
	for name, want := range map[string]string{"{urn:x}a": "424", "{urn:x}b": "424", "{DAV:}getetag": "403", "{urn:schemas-microsoft-com:}Win32LastModifiedTime": "424"} {
		if got["/f "+name] != want {
			t.Errorf("%s = %q, want %s", name, got["/f "+name], want)
		}
	}
	a, _ := b.st.LookupPath(context.Background(), "/f")
	if len(b.dead("/f")) > 0 || a.ModTime().Year() != 2024 || b.want(200, "GET", "/f", "") != before {
		t.Errorf("a refused PROPPATCH changed something: %v, %v", b.dead("/f"), a.ModTime())
	}
	big := strings.Repeat("x", store.MaxXattrValue+1)
	if got := b.patch("/f", `<D:set><D:prop><x:a>`+big+`</x:a></D:prop></D:set>`); got["/f {urn:x}a"] != "507" {
		t.Errorf("a property that is too big: %v", got)
	}
}

func TestPropPatchTimes(t *testing.T) {
	date := time.Date(2015, 6, 7, 8, 9, 10, 0, time.UTC)
	mtime := func(a store.Attr) int64 { return a.Mtime }
	atime := func(a store.Attr) int64 { return a.Atime }
	btime := func(a store.Attr) int64 { return a.Btime }
	stamp := time.Date(2024, 2, 29, 12, 30, 45, 0, time.UTC)
	tests := []struct {
		name, prop string
		of         func(store.Attr) int64
		want       time.Time
		code       string
	}{
		{"Win32Modified", `<W:Win32LastModifiedTime>Sun, 07 Jun 2015 08:09:10 GMT</W:Win32LastModifiedTime>`, mtime, date, "200"},
		{"Win32Accessed", `<W:Win32LastAccessTime>Sun, 07 Jun 2015 08:09:10 GMT</W:Win32LastAccessTime>`, atime, date, "200"},
		{"Win32Created", `<W:Win32CreationTime>Sun, 07 Jun 2015 08:09:10 GMT</W:Win32CreationTime>`, btime, date, "200"},
		{"Win32NoTime", `<W:Win32LastModifiedTime>Mon, 01 Jan 1601 00:00:00 GMT</W:Win32LastModifiedTime>`, mtime, stamp, "200"},
		{"OwnCloud", `<D:lastmodified>1433664550</D:lastmodified>`, mtime, date, "200"},
		{"OwnCloudFraction", `<D:lastmodified>1433664550.25</D:lastmodified>`, mtime, date.Add(time.Second / 4), "200"},
		{"GetLastModified", `<D:getlastmodified>Sun, 07 Jun 2015 08:09:10 GMT</D:getlastmodified>`, mtime, date, "200"},
		{"CreationDate", `<D:creationdate>2015-06-07T08:09:10Z</D:creationdate>`, btime, date, "200"},
		{"CreationDateZone", `<D:creationdate>2015-06-07T10:09:10+02:00</D:creationdate>`, btime, date, "200"},
		{"Junk", `<D:getlastmodified>yesterday</D:getlastmodified>`, mtime, stamp, "409"},
		{"Markup", `<D:getlastmodified><a/></D:getlastmodified>`, mtime, stamp, "409"},
		{"Negative", `<D:lastmodified>-1</D:lastmodified>`, mtime, stamp, "409"},
		{"Infinity", `<D:lastmodified>Inf</D:lastmodified>`, mtime, stamp, "409"},
		{"Exponent", `<D:lastmodified>1e9</D:lastmodified>`, mtime, stamp, "409"},
		{"TooLate", `<D:creationdate>9999-01-01T00:00:00Z</D:creationdate>`, mtime, stamp, "409"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newDAVBench(t, "")
			b.node("/", "f", newFileMode, "")
			got := b.patch("/f", `<D:set><D:prop>`+tt.prop+`</D:prop></D:set>`)
			for name, code := range got {
				if code != tt.code {
					t.Errorf("%s = %s, want %s", name, code, tt.code)
				}
			}
			a, err := b.st.LookupPath(context.Background(), "/f")
			if err != nil || tt.of(a) != tt.want.UnixNano() {
				t.Errorf("time = %v, %v, want %v", time.Unix(0, tt.of(a)).UTC(), err, tt.want)
			}
		})
	}
}

func TestPropPatchKeepsLanguageAndNamespaces(t *testing.T) {
	b := newDAVBench(t, "")
	b.node("/", "f", newFileMode, "")
	b.patch("/f", `<D:set xml:lang="de"><D:prop><x:a xmlns:q="urn:q"><q:v x:w="1">Grüße</q:v></x:a></D:prop></D:set>`)
	body := `<D:propfind xmlns:D="DAV:"><D:prop><a xmlns="urn:x"/></D:prop></D:propfind>`
	text := b.want(207, "PROPFIND", "/f", body, "Depth", "0")
	if want := `<p:a xmlns:p="urn:x" xml:lang="de"><q:v x:w="1" xmlns:q="urn:q" xmlns:x="urn:x">Grüße</q:v></p:a>`; !strings.Contains(text, want) {
		t.Errorf("body lacks %s:\n%s", want, text)
	}
}

func TestDeadPropertiesFollowCopyAndMove(t *testing.T) {
	b := newDAVBench(t, "")
	b.node("/", "d", newDirMode, "")
	b.node("/d", "f", newFileMode, "")
	for _, p := range []string{"/d", "/d/f"} {
		b.patch(p, `<D:set><D:prop><x:a>`+p+`</x:a></D:prop></D:set>`)
	}
	b.want(201, "COPY", "/d", "", "Destination", "/e")
	b.want(201, "MOVE", "/d", "", "Destination", "/g")
	for _, top := range []string{"/e", "/g"} {
		for _, p := range []string{"", "/f"} {
			if got, want := fmt.Sprint(b.dead(top+p)), "[{urn:x}a=/d"+p+"]"; got != want {
				t.Errorf("dead properties of %s = %s, want %s", top+p, got, want)
			}
		}
	}
}

func TestPropPatchNeedsTheLock(t *testing.T) {
	b := newDAVBench(t, "")
	b.node("/", "f", newFileMode, "")
	token := b.token(200, "/f", "exclusive", "user", "ann")
	dead := `<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><a/></D:prop></D:set></D:propertyupdate>`
	win32 := `<D:propertyupdate xmlns:D="DAV:" xmlns:W="urn:schemas-microsoft-com:"><D:set><D:prop><W:Win32FileAttributes>20</W:Win32FileAttributes></D:prop></D:set></D:propertyupdate>`
	tests := []struct {
		name, body, user, header string
		code                     int
	}{
		{"NoToken", dead, "ann", "", 423},
		{"Token", dead, "ann", "(<" + token + ">)", 207},
		{"TokenOfAnother", dead, "bob", "(<" + token + ">)", 423},
		{"OfficeNoToken", win32, "ann", "", 207},
		{"OfficeAnother", win32, "bob", "", 423},
		{"OfficeFalseIf", win32, "ann", "(<urn:uuid:0>)", 412},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			headers := []string{"user", tt.user}
			if tt.header != "" {
				headers = append(headers, "If", tt.header)
			}
			b.in(t).want(tt.code, "PROPPATCH", "/f", tt.body, headers...)
		})
	}
}

func TestPropPatchRefused(t *testing.T) {
	b := newDAVBench(t, "")
	b.node("/", "f", newFileMode, "")
	ok := `<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><a/></D:prop></D:set></D:propertyupdate>`
	tests := []struct {
		name, target, body string
		code               int
	}{
		{"Missing", "/x", ok, 404},
		{"Empty", "/f", "", 400},
		{"NoInstruction", "/f", `<D:propertyupdate xmlns:D="DAV:"/>`, 400},
		{"WrongRoot", "/f", `<D:propfind xmlns:D="DAV:"/>`, 400},
		{"Cut", "/f", ok[:len(ok)-5], 400},
		{"EmptyPrefix", "/f", strings.Replace(ok, "<a/>", `<b:a xmlns:b=""/>`, 1), 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { b.in(t).want(tt.code, "PROPPATCH", tt.target, tt.body) })
	}
}

func TestPropfindShowsTheLockOfALinksTarget(t *testing.T) {
	b := galleryBench(t)
	b.token(200, "/dav/d/sub%20&%20dir", "exclusive", "Depth", "0")
	body := `<D:propfind xmlns:D="DAV:"><D:prop><D:lockdiscovery/></D:prop></D:propfind>`
	got := b.props("PROPFIND", "/dav/d", body, "Depth", "1")
	for href, locked := range map[string]bool{"/dav/d/": false, "/dav/d/link/": true, "/dav/d/sub%20%26%20dir/": true} {
		v := got[href+" {DAV:}lockdiscovery"]
		if strings.Contains(v, "<D:lockroot><D:href>/dav/d/sub%20%26%20dir</D:href>") != locked {
			t.Errorf("lockdiscovery of %s = %q, want locked %v", href, v, locked)
		}
	}
}
