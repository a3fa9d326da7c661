package webdav

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"engramfs/store"
)

func b64(sum []byte) string { return base64.StdEncoding.EncodeToString(sum) }

func sha256Of(s string) []byte { sum := sha256.Sum256([]byte(s)); return sum[:] }

// TestPutDigests: a body that is not what the client says is refused, whatever the
// dialect, and nothing changes.
func TestPutDigests(t *testing.T) {
	s := newServer(t, "")
	for _, body := range []string{"small", strings.Repeat("large ", 100_000)} {
		m, s1, s512 := md5.Sum([]byte(body)), sha1.Sum([]byte(body)), sha512.Sum512([]byte(body))
		for _, tc := range []struct{ good, bad string }{
			{"Repr-Digest: sha-256=:" + b64(sha256Of(body)) + ":", "Repr-Digest: sha-256=:" + b64(sha256Of("other")) + ":"},
			{"Content-Digest: sha-512=:" + b64(s512[:]) + ":;p=1", "Content-Digest: sha-512=:" + b64(make([]byte, 64)) + ":"},
			{"Repr-Digest: x-unknown=:AA==:, md5=:" + b64(m[:]) + ":", "Repr-Digest: x-unknown=:AA==:, md5=:" + b64(make([]byte, 16)) + ":"},
			{"Content-MD5: " + b64(m[:]), "Content-MD5: " + b64(make([]byte, 16))},
			{"OC-Checksum: SHA1:" + hex.EncodeToString(s1[:]), "OC-Checksum: SHA1:" + hex.EncodeToString(make([]byte, 20))},
			{"OC-Checksum: ADLER32:084b021f", "OC-Checksum: sha256:" + hex.EncodeToString(make([]byte, 32))},
		} {
			etag := s.do("PUT", "/f", "before").header.Get("Etag")
			got := s.want(400, "PUT", "/f", body, tc.bad)
			var p digestProblem
			if err := json.Unmarshal([]byte(got.body), &p); err != nil || !strings.HasSuffix(p.Type, "#digest-mismatched-values") ||
				len(p.Mismatched) != 1 || got.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: %s", tc.bad, got.body)
			}
			if now := s.want(200, "GET", "/f", ""); now.body != "before" || now.header.Get("Etag") != etag {
				t.Errorf("%s has changed the file", tc.bad)
			}
			s.want(204, "PUT", "/f", body, tc.good)
			if now := s.want(200, "GET", "/f", ""); now.body != body {
				t.Errorf("%s: %d bytes stored", tc.good, len(now.body))
			}
		}
	}
	for _, tc := range []struct{ header, kind string }{
		{"Repr-Digest: sha-256=:AAAA:", "#digest-invalid-values"},
		{"Content-MD5: AAAA", "#digest-invalid-values"},
		{"OC-Checksum: MD5:aa", "#digest-invalid-values"},
		{"Repr-Digest: unixsum=:AAAA:", "#digest-unsupported-algorithms"},
		{"Repr-Digest: sha-256=AAAA", "malformed"},
		{"Repr-Digest: ", "malformed"},
		{"Content-MD5: ?", "malformed"},
		{"OC-Checksum: MD5", "malformed"},
		{"OC-Checksum: MD5:xx", "malformed"},
	} {
		if got := s.want(400, "PUT", "/new", "x", tc.header); !strings.Contains(got.body, tc.kind) {
			t.Errorf("%s: %s", tc.header, got.body)
		}
	}
	s.want(404, "GET", "/new", "")
}

// TestPutDigestTrailer: a client that learns the digest while it sends puts it
// behind the body.
func TestPutDigestTrailer(t *testing.T) {
	s := newServer(t, "")
	for digest, code := range map[string]int{b64(sha256Of("body")): 201, b64(sha256Of("other")): 400} {
		r, err := http.NewRequest("PUT", s.url+fmt.Sprintf("/f%d", code), io.NopCloser(strings.NewReader("body")))
		if err != nil {
			t.Fatal(err)
		}
		r.Trailer = http.Header{"Repr-Digest": {"sha-256=:" + digest + ":"}}
		resp, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != code {
			t.Errorf("PUT with trailer = %d, want %d", resp.StatusCode, code)
		}
	}
	s.want(404, "GET", "/f400", "")
}

// A trailer that was not announced comes when only SHA-256 has been made of the body. The
// client learns that, and is not told that its content is another one.
func TestPutDigestTrailerUnannounced(t *testing.T) {
	s := newServer(t, "")
	const body = "body"
	s512 := sha512.Sum512([]byte(body))
	for _, tc := range []struct{ digest, status, kind string }{
		{"sha-256=:" + b64(sha256Of(body)) + ":", "201", ""},
		{"sha-256=:" + b64(sha256Of("other")) + ":", "400", "#digest-mismatched-values"},
		{"sha-512=:" + b64(s512[:]) + ":", "400", "#digest-unsupported-algorithms"},
		{"sha-256=:" + b64(sha256Of("other")) + ":, sha-512=:" + b64(s512[:]) + ":", "400", "#digest-mismatched-values"},
	} {
		c, err := net.Dial("tcp", s.host)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "PUT /late-%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"+
			"%x\r\n%s\r\n0\r\nRepr-Digest: %s\r\n\r\n", tc.status, s.host, len(body), body, tc.digest)
		answer, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 "+tc.status) || !strings.Contains(string(answer), tc.kind) {
			t.Errorf("%s: %v\n%s", tc.digest, err, answer)
		}
		c.Close()
	}
	s.want(404, "GET", "/late-400", "")
}

func TestReprDigest(t *testing.T) {
	s := newServer(t, "")
	for _, body := range []string{"", "small", strings.Repeat("large ", 100_000)} {
		s.do("PUT", "/f", body)
		want := "sha-256=:" + b64(sha256Of(body)) + ":"
		for _, method := range []string{"GET", "HEAD"} {
			if got := s.want(200, method, "/f", ""); got.header.Get("Repr-Digest") != want {
				t.Errorf("%s: Repr-Digest %q, want %q", method, got.header.Get("Repr-Digest"), want)
			}
		}
		if body != "" {
			if got := s.want(206, "GET", "/f", "", "Range: bytes=1-2"); got.header.Get("Repr-Digest") != want {
				t.Errorf("range: Repr-Digest %q", got.header.Get("Repr-Digest"))
			}
		}
		if got := s.want(200, "GET", "/f", "", "Want-Repr-Digest: sha-256=0"); got.header.Get("Repr-Digest") != "" {
			t.Errorf("refused Repr-Digest is sent")
		}
	}
	s.do("PUT", "/f", "small")
	sum := sha512.Sum512([]byte("small"))
	got := s.want(200, "GET", "/f", "", "Want-Repr-Digest: sha-256=3, sha-512=7")
	if want := "sha-512=:" + b64(sum[:]) + ":"; got.header.Get("Repr-Digest") != want {
		t.Errorf("Repr-Digest %q, want %q", got.header.Get("Repr-Digest"), want)
	}
	if got := s.want(404, "GET", "/missing", ""); got.header.Get("Repr-Digest") != "" {
		t.Error("an error has a Repr-Digest")
	}
}

func TestWantedDigests(t *testing.T) {
	for field, want := range map[string]string{
		"":                         "sha-256",
		"sha-256=1":                "sha-256",
		"sha-512=3, sha-256=10":    "sha-256 sha-512",
		"sha=10":                   "sha sha-256",
		"sha-256=0":                "",
		"sha-256=0,md5=1":          "md5",
		"unixsum=5":                "sha-256",
		"sha-256=11":               "sha-256",
		"SHA-512=5":                "sha-256",
		"sha-512=5;x=1, sha-256=5": "sha-256 sha-512",
	} {
		hd := http.Header{}
		if field != "" {
			hd.Set("Want-Repr-Digest", field)
		}
		if got := strings.Join(wantedDigests(hd), " "); got != want {
			t.Errorf("wantedDigests(%q) = %q, want %q", field, got, want)
		}
	}
}

const checksumsQuery = `<propfind xmlns="DAV:"><prop><checksums xmlns="http://owncloud.org/ns"/></prop></propfind>`

// TestOCChecksums: what ownCloud's dialect has sent has the digests that it reads
// back; all others have SHA-256.
func TestOCChecksums(t *testing.T) {
	s := newServer(t, "")
	body := strings.Repeat("large ", 100_000)
	s1, m := sha1.Sum([]byte(body)), md5.Sum([]byte(body))
	all := fmt.Sprintf("SHA1:%x MD5:%x SHA256:%x", s1, m, sha256Of(body))
	s.do("PUT", "/dialect", body, "X-OC-Mtime: 1700000000")
	s.do("PUT", "/plain", body)
	for path, want := range map[string]string{"/dialect": all, "/plain": fmt.Sprintf("SHA256:%x", sha256Of(body))} {
		got := s.want(207, "PROPFIND", path, checksumsQuery, "Depth: 0").body
		if !strings.Contains(got, `<p:checksums xmlns:p="http://owncloud.org/ns"><p:checksum>`+want+"</p:checksum></p:checksums>") {
			t.Errorf("%s: %s", path, got)
		}
	}
	s.do("COPY", "/dialect", "", "Destination: /copy")
	got := s.want(207, "PROPFIND", "/", checksumsQuery, "Depth: 1").body
	if strings.Count(got, all) != 2 || strings.Count(got, "404 Not Found") != 1 {
		t.Errorf("listing: %s", got)
	}
	if strings.Contains(s.want(207, "PROPFIND", "/dialect", "", "Depth: 0").body, "checksum") {
		t.Error("allprop has checksums")
	}
}

// changingWriter changes the file when the first byte of the answer goes out.
type changingWriter struct {
	http.ResponseWriter
	change func()
}

func (w *changingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	if w.change != nil {
		w.change()
		w.change = nil
	}
	return n, err
}

// TestGetWhileWritten: an answer that has promised a digest is cut when the file
// is changed under it.
func TestGetWhileWritten(t *testing.T) {
	s := newServer(t, "")
	body := strings.Repeat("0123456789abcdef", 100_000)
	s.do("PUT", "/f", body)
	a, err := s.store.LookupPath(t.Context(), "/f")
	if err != nil {
		t.Fatal(err)
	}
	fired := false
	srv := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handler.ServeHTTP(&changingWriter{w, func() {
			h, err := s.store.Open(r.Context(), a.Ino, true)
			if err == nil {
				_, err = h.WriteAt(r.Context(), []byte("X"), int64(len(body)-1))
				h.Close()
			}
			fired = err == nil
		}}, r)
	})
	rec := &recorder{header: http.Header{}}
	func() {
		defer func() {
			if recover() != http.ErrAbortHandler {
				t.Error("the answer was not cut")
			}
		}()
		r, _ := http.NewRequest("GET", "/f", nil)
		srv.ServeHTTP(rec, r)
	}()
	if !fired || rec.header.Get("Repr-Digest") == "" || rec.body.Len() >= len(body) {
		t.Errorf("changed: %v, digest %q, %d bytes", fired, rec.header.Get("Repr-Digest"), rec.body.Len())
	}
	got := s.want(200, "GET", "/f", "")
	if got.header.Get("Repr-Digest") != "" || got.body != body[:len(body)-1]+"X" {
		t.Errorf("unsealed: digest %q", got.header.Get("Repr-Digest"))
	}
}

// recorder is an http.ResponseWriter.
type recorder struct {
	header http.Header
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(int)             {}
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

func FuzzDigestFields(f *testing.F) {
	for _, v := range []string{"sha-256=:AAAA:", "sha-256=:AA==:;a=\"b\", md5=:AA==:", "SHA1:00ff MD5:aa", "sha-256=10, sha-512=0", ",", "a=::"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		for _, field := range []string{"Repr-Digest", "Content-Digest", "Content-Md5", "Oc-Checksum"} {
			list, err := parseClaims(http.Header{field: {v}})
			if err != nil {
				if statusOf(err).code == 500 && !isDigestError(err) {
					t.Fatalf("%s: %q: %v", field, v, err)
				}
				continue
			}
			for _, c := range list {
				if len(c.sum) != c.hash.Size() {
					t.Fatalf("%s: %q: digest of %d bytes", field, v, len(c.sum))
				}
			}
			var d store.Digests
			for i, c := range list { // only the last of a kind can hold
				if !slices.ContainsFunc(list[i+1:], func(o claim) bool { return o.hash == c.hash && !bytes.Equal(o.sum, c.sum) }) {
					d[c.hash] = c.sum
				}
			}
			if err := list.verify(&d); (err == nil) != agree(list) {
				t.Fatalf("%s: %q: verify = %v", field, v, err)
			}
		}
		for _, key := range wantedDigests(http.Header{"Want-Repr-Digest": {v}}) {
			if _, ok := digestKeys[key]; !ok {
				t.Fatalf("%q wants %q", v, key)
			}
		}
	})
}

func isDigestError(err error) bool { _, ok := err.(*digestError); return ok }

// agree reports whether one content could have all the digests.
func agree(list claims) bool {
	for i, c := range list {
		for _, o := range list[i+1:] {
			if o.hash == c.hash && !bytes.Equal(o.sum, c.sum) {
				return false
			}
		}
	}
	return true
}

// TestRcloneCheck: rclone compares hashes with vendor owncloud and nextcloud,
// and so finds a file of the same size with other bytes.
func TestRcloneCheck(t *testing.T) {
	rclone, err := exec.LookPath("rclone")
	if err != nil {
		if os.Getenv("REQUIRE_ALL") == "1" {
			t.Fatal("rclone is needed")
		}
		t.Skip("rclone is needed")
	}
	for _, vendor := range []string{"owncloud", "nextcloud"} {
		t.Run(vendor, func(t *testing.T) {
			s := newServer(t, "")
			src := t.TempDir()
			for name, n := range map[string]int{"small": 100, "large": 300_000} {
				if err := os.WriteFile(filepath.Join(src, name), bytes.Repeat([]byte("x"), n), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			conf := filepath.Join(t.TempDir(), "rclone.conf")
			if err := os.WriteFile(conf, []byte("[dav]\ntype = webdav\nvendor = "+vendor+"\nurl = "+s.url+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			run := func(args ...string) (string, error) {
				cmd := exec.Command(rclone, append([]string{"--config", conf, "--retries", "1"}, args...)...)
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			if out, err := run("copy", src, "dav:"); err != nil {
				t.Fatalf("copy: %v\n%s", err, out)
			}
			out, err := run("check", src, "dav:")
			if err != nil || !strings.Contains(out, "0 differences found") || strings.Contains(out, "could not be checked") {
				t.Errorf("check: %v\n%s", err, out)
			}
			for _, name := range []string{"small", "large"} {
				f := filepath.Join(src, name)
				b, _ := os.ReadFile(f)
				b[50] = 'y'
				if err := os.WriteFile(f, b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if out, err = run("check", src, "dav:"); err == nil || !strings.Contains(out, "2 differences found") {
				t.Errorf("check of other bytes: %v\n%s", err, out)
			}
		})
	}
}
