package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// awkward are names that a session has to carry through quoting, URLs and XML.
var awkward = []string{"plain.txt", "with space.txt", "ä ö ü.txt", "日本 語.txt", "hash#100%.txt"}

func TestCadaverSession(t *testing.T) {
	cadaver := Program(t, "cadaver")
	for i, name := range awkward {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			dir := t.TempDir()
			body := Content(uint64(i), 20_000+i)
			if err := os.WriteFile(filepath.Join(dir, "local"), body, 0o644); err != nil {
				t.Fatal(err)
			}
			script := strings.ReplaceAll(`mkcol "folder NAME"
cd "folder NAME"
put local "NAME"
lock "NAME"
discover "NAME"
unlock "NAME"
propset "NAME" colour "light green"
propget "NAME" colour
copy "NAME" "copy NAME"
mkcol "sub"
move "copy NAME" "sub/moved NAME"
get "sub/moved NAME" fetched
put local "doomed NAME"
delete "doomed NAME"
ls
cd ..
copy "folder NAME" "second"
rmcol "second"
quit
`, "NAME", name)
			out, err := Command(t, time.Minute, dir, nil, script, cadaver, s.URL+"/")
			if err != nil || strings.Contains(out, "failed") || strings.Contains(out, "Unknown command") {
				t.Fatalf("cadaver: %v\n%s", err, out)
			}
			if !strings.Contains(out, "light green") {
				t.Errorf("propget does not show the property\n%s", out)
			}
			checkCadaver(t, s, dir, name, body)
		})
	}
}

// checkCadaver looks at what the session has left, on both sides.
func checkCadaver(t *testing.T, s *Server, dir, name string, body []byte) {
	t.Helper()
	d := connect(t, s)
	for _, p := range []string{"/folder " + name + "/" + name, "/folder " + name + "/sub/moved " + name} {
		if got := must(t, d, "GET", p, nil, nil, 200); !bytes.Equal(got, body) {
			t.Errorf("%s: %d bytes that are not the %d put", p, len(got), len(body))
		}
	}
	for _, p := range []string{"/folder " + name + "/copy " + name, "/folder " + name + "/doomed " + name, "/second"} {
		must(t, d, "GET", p, nil, nil, 404)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "fetched")); err != nil || !bytes.Equal(got, body) {
		t.Errorf("fetched file: %d bytes, %v", len(got), err)
	}
	// Unlocked: a write without a token goes through.
	must(t, d, "PUT", "/folder "+name+"/"+name, nil, body, 200, 201, 204)
}

// curl runs curl and returns the status and the body.
func curl(t *testing.T, dir string, args ...string) (string, string) {
	t.Helper()
	all := append([]string{Program(t, "curl"), "-sS", "-o", "body", "-w", "%{http_code}"}, args...)
	os.Remove(filepath.Join(dir, "body")) // An answer without a body writes no file.
	out, err := Command(t, time.Minute, dir, nil, "", all...)
	if err != nil {
		t.Fatalf("curl %q: %v\n%s", args, err, out)
	}
	body, err := os.ReadFile(filepath.Join(dir, "body"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return out, string(body)
}

func TestCurlSession(t *testing.T) {
	Program(t, "curl")
	s := start(t)
	d := connect(t, s)
	for i, name := range awkward {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			body := string(Content(uint64(i), 30_000))
			if err := os.WriteFile(filepath.Join(dir, "local"), []byte(body), 0o644); err != nil {
				t.Fatal(err)
			}
			folder := s.URL + d.escape(fmt.Sprintf("/%d %s", i, name))
			file, moved := folder+d.escape("/"+name), folder+d.escape("/moved "+name)
			for _, step := range []struct {
				want string
				body string // wanted too, unless empty
				args []string
			}{
				{"201", "", []string{"-X", "MKCOL", folder + "/"}},
				{"405", "", []string{"-X", "MKCOL", folder + "/"}},
				{"201", "", []string{"-T", "local", file}},
				{"200", body, []string{file}},
				{"206", body[100:200], []string{"-r", "100-199", file}},
				{"206", body[29_990:], []string{"-r", "-10", file}},
				{"416", "", []string{"-r", "40000-", file}},
				{"412", "", []string{"-T", "local", "-H", "If-None-Match: *", file}},
				{"412", "", []string{"-T", "local", "-H", `If-Match: "never"`, file}},
				{"204", "", []string{"-T", "local", file}},
				{"200", "", []string{"-I", file}},
				{"201", "", []string{"-X", "COPY", "-H", "Destination: " + moved, file}},
				{"412", "", []string{"-X", "MOVE", "-H", "Destination: " + moved, "-H", "Overwrite: F", file}},
				{"204", "", []string{"-X", "MOVE", "-H", "Destination: " + moved, file}},
				{"404", "", []string{file}},
				{"200", body, []string{moved}},
				{"409", "", []string{"-T", "local", folder + "/none/" + "file"}},
				{"204", "", []string{"-X", "DELETE", folder + "/"}},
				{"404", "", []string{moved}},
			} {
				code, got := curl(t, dir, step.args...)
				if code != step.want || step.body != "" && got != step.body {
					t.Fatalf("curl %q = %s with %d bytes, want %s with %d", step.args, code, len(got), step.want, len(step.body))
				}
			}
		})
	}
}

// TestCurlAbortedUploadChangesNothing cuts an upload in the middle, over an
// existing file and to a new name.
func TestCurlAbortedUploadChangesNothing(t *testing.T) {
	program := Program(t, "curl")
	s := start(t)
	d := connect(t, s)
	old := Content(1, 100_000)
	must(t, d, "PUT", "/kept", nil, old, 201)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big"), Content(2, 8<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/kept", "/new"} {
		out, err := Command(t, time.Minute, dir, nil, "", program, "-sS", "-m", "1", "--limit-rate", "2M", "-T", "big", s.URL+p)
		if err == nil {
			t.Fatalf("curl finished an upload that it was to break off\n%s", out)
		}
	}
	if got := must(t, d, "GET", "/kept", nil, nil, 200); !bytes.Equal(got, old) {
		t.Errorf("/kept has %d bytes after an aborted PUT, want the old %d", len(got), len(old))
	}
	must(t, d, "GET", "/new", nil, nil, 404)
	members, err := d.List("/")
	if err != nil || len(members) != 1 {
		t.Errorf("the root holds %v (%v), want only /kept", members, err)
	}
}

// TestRefusedUploadIsAnsweredBeforeItsBody: a client that asks with Expect:
// 100-continue (RFC 9110 section 10.1.1) must learn of a refusal without
// sending, or waiting out a timer.
func TestRefusedUploadIsAnsweredBeforeItsBody(t *testing.T) {
	s := start(t)
	must(t, connect(t, s), "PUT", "/kept", nil, []byte("old"), 201)
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(conn, "PUT /kept HTTP/1.1\r\nHost: %s\r\nIf-None-Match: *\r\nContent-Length: 30000\r\nExpect: 100-continue\r\n\r\n", s.Addr)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, " 412 ") {
		t.Errorf("status line %q, %v, want 412 at once", line, err)
	}
}
