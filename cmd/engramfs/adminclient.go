package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"engramfs/store"
)

const (
	askTimeout = 30 * time.Second // for an answer that takes no work
	maxAnswer  = 64 << 20         // bytes of an answer
)

// adminAPI is the admin API of one server, and who asks it.
type adminAPI struct {
	p      *process
	client *http.Client
	base   *url.URL
	json   bool   // print answers as they are
	auth   string // the Authorization header; "": none
	who    string // whose credentials auth has, for messages
	lack   string // why there are none, and what to do about it
}

func (s *adminAPI) useLogin(name, password string) {
	s.who = "the user " + name
	s.auth = "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

func (s *adminAPI) useToken(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%s: not a token", file)
	}
	s.who, s.auth = "the token in "+file, "Bearer "+token
	return nil
}

// noAnswerError says that the server could not be asked, so that nothing is known
// of it: exit code 3.
type noAnswerError struct{ err error }

func (e *noAnswerError) Error() string { return e.err.Error() }
func (e *noAnswerError) Unwrap() error { return e.err }

func noAnswer(err error, text string) error { return hint(&noAnswerError{err}, text) }

// errFound ends a command that worked and found something wrong, which it has
// printed: exit code 1 and no further word.
var errFound = errors.New("problems found")

// refusal is an error that the server answered with (RFC 9457).
type refusal struct {
	Code   string             `json:"code"`
	Detail string             `json:"detail"`
	Report *store.ResetReport `json:"report"` // of a reset that failed; nil: none

	body []byte // the answer as it came
}

func (e *refusal) Error() string {
	if e.Detail == "" {
		return e.Code
	}
	return fmt.Sprintf("%s (%s)", visible(e.Detail), visible(e.Code))
}

// question is a request to the API.
type question struct {
	method  string
	path    []string   // segments below /api/v1
	query   url.Values // nil: none
	ifMatch uint64     // generation; 0: none
	body    any        // nil: none
	work    bool       // the server works on it for as long as it takes
}

// get is the question for what is at path.
func get(path ...string) question { return question{method: http.MethodGet, path: path} }

// post is the question that does what path says.
func post(path ...string) question { return question{method: http.MethodPost, path: path} }

// ask returns the answer's body, which is JSON. The error is a *refusal if the
// server answered with one, and else a *noAnswerError.
func (s *adminAPI) ask(q question) ([]byte, error) {
	ctx := s.p.ctx
	if !q.work {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askTimeout)
		defer cancel()
	}
	answer, err := s.send(ctx, q)
	if err != nil {
		return nil, err
	}
	return s.read(answer)
}

// download returns the answer to q whose body is a file, for the caller to close. Its
// errors are those of ask.
func (s *adminAPI) download(q question) (*http.Response, error) {
	answer, err := s.send(s.p.ctx, q)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusOK && answer.Header.Get("Content-Type") == "application/octet-stream" {
		return answer, nil
	}
	if _, err = s.read(answer); err == nil {
		err = noAnswer(fmt.Errorf("%s: not a file", s.base), "is the server of another version?")
	}
	return nil, err
}

func (s *adminAPI) send(ctx context.Context, q question) (*http.Response, error) {
	req, err := s.request(ctx, q)
	if err != nil {
		return nil, err
	}
	answer, err := s.client.Do(req)
	if err != nil {
		return nil, noAnswer(err, "is the server running, with its admin listener there? See --admin and --url")
	}
	return answer, nil
}

// read reads and closes an answer's body, and returns what it stands for.
func (s *adminAPI) read(answer *http.Response) ([]byte, error) {
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, noAnswer(fmt.Errorf("%s: %w", answer.Request.URL, err), "the connection broke: ask again")
	}
	return body, s.refused(answer, body)
}

func (s *adminAPI) request(ctx context.Context, q question) (*http.Request, error) {
	u := s.base.JoinPath("api", "v1")
	for _, segment := range q.path {
		u = u.JoinPath(url.PathEscape(segment))
	}
	u.RawQuery = q.query.Encode()
	var body io.Reader
	if q.body != nil {
		b, err := json.Marshal(q.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), body)
	if err != nil {
		return nil, err
	}
	req.Close = true // nothing is left open when the command has ended
	req.Header.Set("Accept", "application/json")
	if s.auth != "" {
		req.Header.Set("Authorization", s.auth)
	}
	if q.ifMatch != 0 {
		req.Header.Set("If-Match", strconv.Quote(strconv.FormatUint(q.ifMatch, 10)))
	}
	return req, nil
}

// refused returns the error that an answer stands for; nil: it is what was
// asked for, whatever its status: that of a health may be 503.
func (s *adminAPI) refused(answer *http.Response, body []byte) error {
	where := answer.Request.URL.Redacted()
	switch answer.StatusCode {
	case http.StatusUnauthorized:
		if s.auth == "" {
			return noAnswer(fmt.Errorf("%s: the server wants credentials", where), s.lack)
		}
		return noAnswer(fmt.Errorf("%s: the server does not take %s", where, s.who),
			"is it the token or password of this server? See --data, --token-file and --login")
	case http.StatusTooManyRequests:
		return noAnswer(fmt.Errorf("%s: there were too many wrong passwords", where),
			"wait "+visible(cmp.Or(answer.Header.Get("Retry-After"), "some"))+" seconds")
	case http.StatusMisdirectedRequest:
		return noAnswer(fmt.Errorf("%s: the server does not answer to that host name", where), "use its address, or start it with --allow-host")
	}
	kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	switch {
	case kind == "application/problem+json":
		r := &refusal{body: body}
		if json.Unmarshal(body, r) != nil || r.Code == "" {
			break
		}
		if answer.StatusCode == http.StatusBadRequest {
			return usage(r)
		}
		return r
	case kind == "application/json" && json.Valid(body):
		return nil
	}
	return noAnswer(fmt.Errorf("%s: %s, not the answer of an engramfs server's admin API", where, visible(answer.Status)),
		"the WebDAV listener is another one: see --admin and --url")
}

// hintOf adds what a person can do about a refusal.
func hintOf(err error, lock string) error {
	r := (*refusal)(nil)
	if !errors.As(err, &r) {
		return err
	}
	switch r.Code {
	case "generation_stale":
		return hint(err, "engramfs admin locks "+lock+" shows it as it is now; then reset it again")
	case "lock_held":
		return hint(err, "engramfs admin locks "+lock+" shows what holds it")
	case "reset_failed", "damaged":
		return hint(err, "the lock stays poisoned and its reads are served; engramfs admin check looks at the rest")
	case "job_not_running", "not_found":
		return hint(err, "somebody may have been faster: look again")
	}
	return err
}

// show asks for what is at path and prints it: as it came with --json, else as
// text writes it. It returns what it showed.
func show[T any](s *adminAPI, q question, text func(*page, T)) (v T, err error) {
	body, err := s.ask(q)
	if err != nil {
		return v, s.failed(err)
	}
	if v, err = decode[T](s, body); err != nil {
		return v, err
	}
	return v, s.print(body, func(out *page) { text(out, v) })
}

func decode[T any](s *adminAPI, body []byte) (v T, err error) {
	if err := json.Unmarshal(body, &v); err != nil {
		return v, noAnswer(fmt.Errorf("%s: %w", s.base, err), "is the server of another version? See engramfs admin health --json")
	}
	return v, nil
}

// print writes body with --json, and else what text writes.
func (s *adminAPI) print(body []byte, text func(*page)) error {
	if s.json {
		_, err := s.p.stdout.Write(body)
		return err
	}
	out := newPage(s.p.stdout)
	text(out)
	return out.flush()
}

// failed prints the answer that err came with if --json wants answers as they
// are, and returns err.
func (s *adminAPI) failed(err error) error {
	if r := (*refusal)(nil); s.json && errors.As(err, &r) {
		_, werr := s.p.stdout.Write(r.body)
		return errors.Join(err, werr)
	}
	return err
}
