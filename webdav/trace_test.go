package webdav

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTraces replays what real clients send, against what they need to see.
// The files of testdata/trace are made of blocks:
//
//	PUT /f                     a request: method and path, {prefix} left out
//	If: (<{T1}>)               its headers
//	| text                     its body
//	< 204                      the status
//	< Etag: {E}                a header; "*" is any value, "-" is none
//	<~ text                    the body contains text
//	<!~ text                   the body does not contain it
//	<= E Etag                  {E} is the header's value, without < >
//	<=~ E regexp               {E} is the regexp's first group in the body
//
// BEGIN before the method sends the headers and the body and waits; a block
// FINISH ends that body and checks the answer.
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/trace/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no traces: %v", err)
	}
	for _, file := range files {
		for _, prefix := range []string{"", "/dav/files"} {
			name := strings.TrimSuffix(filepath.Base(file), ".txt") + ":" + prefix
			t.Run(name, func(t *testing.T) {
				replay(t, newServer(t, prefix), file, prefix)
			})
		}
	}
}

// player replays one trace.
type player struct {
	*server
	vars    map[string]string
	pending *upload
}

// upload is a request whose body is not finished.
type upload struct {
	body   *io.PipeWriter
	answer chan answer
	err    error
}

func replay(t *testing.T, s *server, file, prefix string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := &player{server: s, vars: map[string]string{"prefix": prefix, "host": s.host}}
	line := 1
	for _, b := range strings.Split(string(text), "\n\n") {
		if strings.TrimSpace(b) != "" {
			p.block(fmt.Sprintf("%s:%d", file, line), b)
		}
		line += strings.Count(b, "\n") + 2
	}
}

// block runs one block of a trace.
func (p *player) block(at, text string) {
	p.t.Helper()
	var request, body string
	var headers, checks []string
	for sc := bufio.NewScanner(strings.NewReader(p.expand(text))); sc.Scan(); {
		switch l := sc.Text(); {
		case l == "" || strings.HasPrefix(l, "#"):
		case strings.HasPrefix(l, "<"):
			checks = append(checks, l)
		case strings.HasPrefix(l, "|"):
			body += strings.TrimPrefix(l[1:], " ") + "\n"
		case request == "":
			request = l
		default:
			headers = append(headers, l)
		}
	}
	if request == "" {
		return // a comment
	}
	got := p.send(at, request, strings.TrimSuffix(body, "\n"), headers)
	for _, c := range checks {
		p.check(at, p.expand(c), got)
	}
}

func (p *player) send(at, request, body string, headers []string) *answer {
	p.t.Helper()
	method, target, _ := strings.Cut(request, " ")
	switch method {
	case "FINISH":
		if err := p.pending.body.Close(); err != nil {
			p.t.Fatal(err)
		}
		got := <-p.pending.answer
		if p.pending.err != nil {
			p.t.Fatalf("%s: %v", at, p.pending.err)
		}
		return &got
	case "BEGIN":
		r, w := io.Pipe()
		method, target, _ = strings.Cut(target, " ")
		p.pending = &upload{body: w, answer: make(chan answer, 1)}
		go func(u *upload) {
			var got answer
			got, u.err = p.try(method, target, r, headers...)
			u.answer <- got
		}(p.pending)
		if _, err := io.WriteString(w, body); err != nil {
			p.t.Fatal(err)
		}
		return nil
	}
	got := p.do(method, target, body, headers...)
	return &got
}

func (p *player) check(at, c string, got *answer) {
	p.t.Helper()
	kind, rest, _ := strings.Cut(c, " ")
	switch kind {
	case "<":
		name, value, isHeader := strings.Cut(rest, ": ")
		if !isHeader {
			if code := fmt.Sprint(got.code); code != rest {
				p.t.Fatalf("%s: status %s, want %s\n%v\n%s", at, code, rest, got.header, got.body)
			}
			return
		}
		have := strings.Join(got.header.Values(name), " + ")
		if ok := have == value || value == "*" && have != "" || value == "-" && have == ""; !ok {
			p.t.Fatalf("%s: %s is %q, want %q", at, name, have, value)
		}
	case "<~", "<!~":
		if strings.Contains(got.body, rest) != (kind == "<~") {
			p.t.Fatalf("%s: %s %s\n%s", at, kind, rest, got.body)
		}
	case "<=":
		name, header, _ := strings.Cut(rest, " ")
		p.set(at, name, strings.Trim(got.header.Get(header), "<>"))
	case "<=~":
		name, expr, _ := strings.Cut(rest, " ")
		m := regexp.MustCompile(expr).FindStringSubmatch(got.body)
		if m == nil {
			p.t.Fatalf("%s: %s is not in\n%s", at, expr, got.body)
		}
		p.set(at, name, m[1])
	default:
		p.t.Fatalf("%s: unknown check %q", at, c)
	}
}

func (p *player) set(at, name, value string) {
	p.t.Helper()
	if value == "" {
		p.t.Fatalf("%s: %s is empty", at, name)
	}
	p.vars[name] = value
}

func (p *player) expand(s string) string {
	for name, value := range maps.All(p.vars) {
		s = strings.ReplaceAll(s, "{"+name+"}", value)
	}
	return s
}

// TestRestartKeepsLocks is trace T12: a lock that was taken before a restart is
// the same lock after it, and of no other resource.
func TestRestartKeepsLocks(t *testing.T) {
	dir := t.TempDir()
	first := openDir(t, dir)
	s := serve(t, first, "")
	s.want(201, "PUT", "/f", "one")
	s.want(201, "PUT", "/g", "other")
	token := s.lock("/f")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	second := openDir(t, dir)
	t.Cleanup(func() { second.Close() })
	s = serve(t, second, "")
	s.want(423, "PUT", "/f", "without token")
	s.want(412, "PUT", "/g", "wrong resource", "If: (<"+token+">)")
	s.want(204, "PUT", "/f", "two", "If: (<"+token+">)")
	s.want(204, "UNLOCK", "/f", "", "Lock-Token: <"+token+">")
	s.want(204, "PUT", "/f", "three")
	if got := s.want(200, "GET", "/g", "").body; got != "other" {
		t.Errorf("GET /g = %q", got)
	}
}
