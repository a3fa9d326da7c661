package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
)

// document is the part of an OpenAPI document that the tests look at.
type document struct {
	OpenAPI    string                          `json:"openapi"`
	Paths      map[string]map[string]described `json:"paths"`
	Components struct {
		Schemas map[string]any `json:"schemas"`
	} `json:"components"`
}

type described struct {
	ID        string                     `json:"operationId"`
	Summary   string                     `json:"summary"`
	Responses map[string]describedAnswer `json:"responses"`
	Security  []map[string][]string      `json:"security"`
}

type describedAnswer struct {
	Content map[string]struct {
		Schema map[string]any `json:"schema"`
	} `json:"content"`
}

func readDocument(t *testing.T, h http.Handler) document {
	t.Helper()
	w := serve(h, "GET", "/openapi.json", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("document = %d %s", w.Code, w.Header())
	}
	return decode[document](t, w)
}

// violations returns where v does not match the schema. It knows the words of
// JSON schema that the document uses, and refuses others.
func (d document) violations(schema map[string]any, v any, at string) []string {
	var bad []string
	add := func(format string, args ...any) { bad = append(bad, at+": "+fmt.Sprintf(format, args...)) }
	for word, want := range schema {
		switch word {
		case "$ref":
			name := strings.TrimPrefix(want.(string), "#/components/schemas/")
			component, ok := d.Components.Schemas[name].(map[string]any)
			if !ok {
				add("no component %s", name)
				continue
			}
			bad = append(bad, d.violations(component, v, at)...)
		case "anyOf":
			var found []string
			for i, one := range want.([]any) {
				f := d.violations(one.(map[string]any), v, at)
				if i == 0 {
					found = f
				}
				if len(f) == 0 {
					found = nil
					break
				}
			}
			bad = append(bad, found...)
		case "type":
			if !hasType(want, v) {
				add("%T %v is no %v", v, v, want)
			}
		case "enum":
			if !slices.Contains(want.([]any), v) {
				add("%v is none of %v", v, want)
			}
		case "minimum":
			if n, ok := v.(float64); ok && n < want.(float64) {
				add("%v is below %v", n, want)
			}
		case "format":
			if s, ok := v.(string); ok {
				if _, err := time.Parse(time.RFC3339Nano, s); want != "date-time" || err != nil {
					add("%q is no %v", s, want)
				}
			}
		case "items":
			list, _ := v.([]any)
			for i, e := range list {
				bad = append(bad, d.violations(want.(map[string]any), e, fmt.Sprintf("%s[%d]", at, i))...)
			}
		case "required":
			object, _ := v.(map[string]any)
			for _, name := range want.([]any) {
				if _, ok := object[name.(string)]; !ok {
					add("no %v", name)
				}
			}
		case "properties":
			object, _ := v.(map[string]any)
			for name, value := range object {
				if p, ok := want.(map[string]any)[name].(map[string]any); ok {
					bad = append(bad, d.violations(p, value, at+"."+name)...)
				} else if schema["additionalProperties"] == false {
					add("%s is not in the schema", name)
				}
			}
		case "additionalProperties", "contentEncoding":
		default:
			add("unknown word %q in the schema", word)
		}
	}
	return bad
}

func hasType(want, v any) bool {
	if list, ok := want.([]any); ok {
		return slices.ContainsFunc(list, func(one any) bool { return hasType(one, v) })
	}
	switch v := v.(type) {
	case nil:
		return want == "null"
	case bool:
		return want == "boolean"
	case string:
		return want == "string"
	case float64:
		return want == "number" || want == "integer" && v == float64(int64(v))
	case []any:
		return want == "array"
	case map[string]any:
		return want == "object"
	}
	return false
}

// The validator must be able to fail.
func TestValidatorFindsWrongAnswers(t *testing.T) {
	d := readDocument(t, New(Options{Store: newFake()}))
	health := d.Paths["/api/v1/health"]["get"].Responses["200"].Content["application/json"].Schema
	for _, answer := range []string{
		`{}`, `[]`, `{"status": "fine"}`, `{"status": 1}`, `{"status": "online", "extra": 1}`, `{"status": "online", "at": "noon"}`,
		`{"status": "online", "locks": {"listed": 1.5, "poisoned": 0, "stuck": 0}}`, `{"status": "online", "troubles": [{}]}`, `{"status": "online", "damaged": "two"}`,
	} {
		var v any
		if err := json.Unmarshal([]byte(answer), &v); err != nil {
			t.Fatal(err)
		}
		if bad := d.violations(health, v, "health"); len(bad) == 0 {
			t.Errorf("%s passes", answer)
		}
	}
}

func TestEveryRouteIsInTheDocument(t *testing.T) {
	a := New(richOptions(newRich()))
	d := readDocument(t, a)
	ids := map[string]bool{}
	for path, methods := range d.Paths {
		for method, op := range methods {
			if op.Summary == "" || ids[op.ID] {
				t.Errorf("%s %s: summary %q, id %q (twice: %t)", method, path, op.Summary, op.ID, ids[op.ID])
			}
			ids[op.ID] = true
		}
	}
	known := func(method, path string) bool {
		_, ok := d.Paths[path][strings.ToLower(method)]
		return ok
	}
	count := 0
	err := chi.Walk(a.handler.(chi.Routes), func(method, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if strings.HasPrefix(path, "/api/") {
			count++
			if !known(method, path) {
				t.Errorf("%s %s is not in the document", method, path)
			}
		}
		return nil
	})
	if err != nil || count < 20 {
		t.Errorf("%d routes of the API, %v", count, err)
	}
}

var variable = regexp.MustCompile(`\{[a-z]+\}`)

// call is a request that succeeds on a rich fake with a poisoned inode.
func callOf(method, path string) (target, body string, header []string) {
	target = variable.ReplaceAllStringFunc(path, func(v string) string {
		switch {
		case v == "{seq}":
			return "3"
		case strings.Contains(path, "/jobs/"):
			return "scrub"
		}
		return "inode:7"
	})
	if path == "/api/v1/drills" && method == "post" {
		body = `{"path": "/photos/2024", "cause": "panic"}`
	}
	return target, body, []string{"If-Match", `"3"`}
}

func TestEveryAnswerValidates(t *testing.T) {
	for _, s := range states {
		t.Run(s.name, func(t *testing.T) {
			a := newState(t, s)
			d := readDocument(t, a)
			var order []string
			for path, methods := range d.Paths {
				for method := range methods {
					order = append(order, path+" "+method)
				}
			}
			slices.Sort(order) // start before stop
			for _, o := range order {
				path, method, _ := strings.Cut(o, " ")
				if path == "/api/v1/stream" {
					continue // has a test of its own
				}
				target, body, header := callOf(method, path)
				w := serve(a, strings.ToUpper(method), target, body, header...)
				op := d.Paths[path][method]
				status := fmt.Sprint(w.Code)
				if _, ok := op.Responses[status]; !ok {
					status = "default"
				}
				media, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
				content, ok := op.Responses[status].Content[media]
				if !ok {
					t.Errorf("%s %s = %d %s: not in the document\n%s", method, target, w.Code, media, w.Body)
					continue
				}
				if w.Code >= 500 && status == "default" && s.name != "unknown" {
					t.Errorf("%s %s = %d\n%s", method, target, w.Code, w.Body)
				}
				if !strings.HasSuffix(media, "json") {
					continue
				}
				for _, bad := range d.violations(content.Schema, decode[any](t, w), "$") {
					t.Errorf("%s %s = %d: %s", method, target, w.Code, bad)
				}
			}
		})
	}
}

// What a store does not have is 404, and not an empty list that looks like an answer.
func TestWhatIsNotThereIsNotEmpty(t *testing.T) {
	a := New(Options{Store: newFake()})
	for _, path := range []string{"events", "events/1", "damaged", "handles", "davlocks", "mounts", "listeners", "config", "audit"} {
		wantProblem(t, serve(a, "GET", "/api/v1/"+path, ""), 404, "not_available")
	}
	page := serve(a, "GET", "/", "").Body.String()
	for _, section := range []string{`id="davlocks"`, `id="handles"`, `id="drills"`, `id="settings"`} {
		if strings.Contains(page, section) {
			t.Errorf("the page has %s", section)
		}
	}
	if !strings.Contains(page, "unknown") {
		t.Error("the page does not say that figures are unknown")
	}
	u := decode[map[string]any](t, serve(a, "GET", "/api/v1/usage", ""))
	for _, key := range []string{"files", "content_bytes", "free_bytes", "engine"} {
		if v, ok := u[key]; !ok || v != nil {
			t.Errorf("usage %s = %v (%t), want null", key, v, ok)
		}
	}
	if h := decode[map[string]any](t, serve(a, "GET", "/api/v1/health", "")); h["damaged"] != nil {
		t.Errorf("damaged = %v, want null", h["damaged"])
	}
}

// A store whose locks are stuck answers nothing that needs one; the admin surface
// says so, soon, and does not pile up goroutines.
func TestAnswersWhileTheStoreIsStuck(t *testing.T) {
	f := newRich()
	f.hang = make(chan struct{})
	defer close(f.hang)
	a := New(richOptions(f))
	for range 3 {
		for _, path := range []string{"/api/v1/health", "/api/v1/locks", "/api/v1/usage", "/"} {
			begin := time.Now()
			w := serve(a, "GET", path, "")
			if took := time.Since(begin); w.Code != 200 || took > 2*time.Second {
				t.Errorf("%s = %d after %v", path, w.Code, took)
			}
			if path == "/api/v1/health" && time.Since(begin) > 100*time.Millisecond {
				t.Errorf("the health took %v", time.Since(begin))
			}
		}
	}
	u := decode[Usage](t, serve(a, "GET", "/api/v1/usage", ""))
	if u.Files != nil || u.ContentBytes != nil || u.MemoryBytes == nil {
		t.Errorf("usage = %+v", u)
	}
}

func TestEvents(t *testing.T) {
	a := New(richOptions(newRich()))
	var seqs []uint64
	for before, pages := "", 0; ; pages++ {
		l := decode[EventList](t, serve(a, "GET", "/api/v1/events?limit=1"+before, ""))
		for _, e := range l.Events {
			seqs = append(seqs, e.Seq)
			if e.Stack != nil {
				t.Error("the list has stacks")
			}
		}
		if l.Next == nil || pages > 5 {
			break
		}
		before = fmt.Sprintf("&before=%d", *l.Next)
	}
	if !slices.Equal(seqs, []uint64{3, 2, 1}) {
		t.Errorf("pages hold %v, want 3 2 1", seqs)
	}
	e := decode[Event](t, serve(a, "GET", "/api/v1/events/3", ""))
	if e.Op != "rename" || e.Cause != "panic" || e.Path != "/photos/2024" || len(e.Stack) != 2 || len(e.Also) != 1 || e.Also[0].Lock != "inode:9" {
		t.Errorf("event = %+v", e)
	}
	for _, seq := range []string{"0", "4", "99999999999999"} {
		wantProblem(t, serve(a, "GET", "/api/v1/events/"+seq, ""), 404, "not_found")
	}
	wantProblem(t, serve(a, "GET", "/api/v1/events/x", ""), 400, "bad_request")
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "before=0", "before=-1"} {
		wantProblem(t, serve(a, "GET", "/api/v1/events?"+query, ""), 400, "bad_request")
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	o := richOptions(newRich())
	o.Token = strings.Repeat("s3cret", 8)
	a := New(o)
	for _, path := range []string{"/", "/api/v1/config", "/api/v1/health", "/openapi.json"} {
		body := serve(a, "GET", path, "").Body.String()
		if strings.Contains(body, "hunter2") || strings.Contains(body, "s3cret") {
			t.Errorf("%s shows a secret", path)
		}
	}
	l := decode[SettingList](t, serve(a, "GET", "/api/v1/config", ""))
	if !reflect.DeepEqual(l.Settings[1], Setting{Name: "user", Value: "set", Secret: true}) {
		t.Errorf("setting = %+v", l.Settings[1])
	}
}

func TestJobs(t *testing.T) {
	f := newRich()
	begun, found := make(chan struct{}), make(chan []string)
	f.check = func(ctx context.Context) ([]string, error) {
		close(begun)
		select {
		case problems := <-found:
			return problems, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	a := New(richOptions(f))
	defer a.Close()
	if j := decode[Job](t, serve(a, "GET", "/api/v1/jobs/check", "")); j.Running != nil || j.Last != nil {
		t.Errorf("a new job = %+v", j)
	}
	wantProblem(t, serve(a, "POST", "/api/v1/jobs/check/stop", ""), 409, "job_not_running")
	wantProblem(t, serve(a, "POST", "/api/v1/jobs/dust/start", ""), 404, "not_found")
	if j := decode[Job](t, serve(a, "POST", "/api/v1/jobs/check/start", "")); j.Running == nil || j.Running.Done != nil || j.Running.Result != nil {
		t.Errorf("a started job = %+v", j)
	}
	<-begun
	wantProblem(t, serve(a, "POST", "/api/v1/jobs/check/start", ""), 409, "job_running")
	if page := serve(a, "GET", "/", "").Body.String(); !strings.Contains(page, "Check is running") {
		t.Error("the page does not show the running job")
	}
	found <- []string{"inode 3 has no name"}
	j := waitJob(t, a, "check")
	if r := j.Last; r == nil || *r.Result != "problems" || *r.Found != 1 || len(r.Problems) != 1 || r.Ended == nil {
		t.Errorf("last = %+v", r)
	}
}

// waitJob waits until a job does not run.
func waitJob(t *testing.T, a *Server, name string) Job {
	t.Helper()
	for range 200 {
		if j := decode[Job](t, serve(a, "GET", "/api/v1/jobs/"+name, "")); j.Running == nil {
			return j
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the job does not end")
	return Job{}
}

func TestJobIsStoppedAndFails(t *testing.T) {
	spec := func(run func(context.Context) error) []JobSpec {
		return []JobSpec{{Name: "x", Title: "X", Run: func(ctx context.Context, progress func(done, total int64)) ([]string, error) {
			progress(5, 10)
			return nil, run(ctx)
		}}}
	}
	audit, err := OpenAudit(t.TempDir() + "/audit.log")
	if err != nil {
		t.Fatal(err)
	}
	defer audit.Close()
	var seen []string
	for _, c := range []struct {
		name, result string
		stop         bool
		run          func(context.Context) error
	}{
		{"Stopped", "stopped", true, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
		{"Failed", "failed", false, func(context.Context) error { return errTest }},
		{"Panicked", "failed", false, func(context.Context) error { panic("boom") }},
		{"Clean", "clean", false, func(context.Context) error { return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := New(Options{Store: newFake(), Jobs: spec(c.run), Audit: audit})
			serve(a, "POST", "/api/v1/jobs/x/start", "")
			if c.stop {
				serve(a, "POST", "/api/v1/jobs/x/stop", "")
			}
			r := waitJob(t, a, "x").Last
			if r == nil || *r.Result != c.result || strings.Contains(r.Error, "test") || *r.Done != 5 || *r.Total != 10 {
				t.Errorf("last = %+v", r)
			}
			a.Close()
			// A quick job may end before the line that it has started.
			lines, err := audit.last(2)
			ended := slices.IndexFunc(lines, func(l AuditLine) bool { return l.Action == "job.end" && !slices.Contains(seen, l.ID) })
			if err != nil || ended < 0 || lines[ended].Target != "x" || lines[ended].Result != c.result {
				t.Fatalf("audit log: %+v, %v", lines, err)
			}
			seen = append(seen, lines[ended].ID)
		})
	}
}

func TestCloseEndsJobsAndStreams(t *testing.T) {
	f := newRich()
	f.check = func(ctx context.Context) ([]string, error) { <-ctx.Done(); return nil, ctx.Err() }
	a := New(richOptions(f))
	serve(a, "POST", "/api/v1/jobs/check/start", "")
	ended := make(chan struct{})
	go func() {
		serve(a, "GET", "/api/v1/stream", "")
		close(ended)
	}()
	a.Close()
	<-ended
	if j := decode[Job](t, serve(a, "GET", "/api/v1/jobs/check", "")); j.Running != nil || *j.Last.Result != "stopped" {
		t.Errorf("job = %+v", j)
	}
	wantProblem(t, serve(a, "POST", "/api/v1/jobs/check/start", ""), 503, "closing")
}

func TestProgressTellsTheTimeLeft(t *testing.T) {
	r := Run{Started: now}
	r.note(now.Add(10*time.Second), 250, 1000)
	if *r.Rate != 25 || *r.TimeLeft != 30 {
		t.Errorf("rate %v, time left %v", *r.Rate, *r.TimeLeft)
	}
	r.note(now.Add(10*time.Second), 250, -1)
	if r.Total != nil || r.TimeLeft != nil || *r.Rate != 25 {
		t.Errorf("unknown total: %+v", r)
	}
	r.note(now.Add(10*time.Second), -1, -1)
	if r.Done != nil || r.Rate != nil {
		t.Errorf("unknown progress: %+v", r)
	}
}

func TestSamples(t *testing.T) {
	o := richOptions(newRich())
	var seconds time.Duration
	o.Now = func() time.Time { return now.Add(seconds) }
	traffic := Traffic{Latency: []LatencyBucket{{0.001, 0}, {0.1, 0}}}
	o.Traffic = func() Traffic { return traffic }
	a := New(o)
	a.takeSample(t.Context())
	seconds += 10 * time.Second
	traffic = Traffic{Requests: 100, Failed: 10, BytesOut: 1000, Latency: []LatencyBucket{{0.001, 60}, {0.1, 100}}}
	a.takeSample(t.Context())
	seconds += 10 * time.Second
	a.takeSample(t.Context())
	l := decode[SampleList](t, serve(a, "GET", "/api/v1/samples", "")).Samples
	if len(l) != 3 || l[0].Requests != nil {
		t.Fatalf("samples = %+v", l)
	}
	if s := l[1]; *s.Requests != 10 || *s.Failed != 1 || *s.BytesOut != 100 || *s.LatencyP50 != 0.001 || *s.LatencyP99 != 0.1 {
		t.Errorf("rates = %+v", s)
	}
	if s := l[2]; *s.Requests != 0 || s.LatencyP50 != nil {
		t.Errorf("without requests: %v, latency %v, want 0 and unknown", *s.Requests, s.LatencyP50)
	}
}

// A figure that was unknown for a while leaves a gap in its plot.
func TestPlotHasGaps(t *testing.T) {
	a := New(Options{Store: newFake()})
	addSamples(a)
	plots := plotsOf(a.samples.all())
	if len(plots) != 7 || plots[0].Title != "Requests" {
		t.Fatalf("%d plots", len(plots))
	}
	first := 0
	for _, l := range plots[0].Lines {
		if l.Class == "first" {
			first++
		}
	}
	if first != 2 {
		t.Errorf("%d lines, want one before the gap and one behind it", first)
	}
	if plotsOf(nil) != nil || plotsOf(make([]Sample, 1)) != nil {
		t.Error("a plot of fewer than two samples")
	}
}

func TestStreamTellsOfChanges(t *testing.T) {
	s, a, _ := newLive(t)
	base := httptest.NewServer(a)
	defer base.Close()
	defer a.Close()
	r, err := http.NewRequestWithContext(t.Context(), "GET", base.URL+"/api/v1/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth("ann", "right")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("stream = %d %v", answer.StatusCode, answer.Header)
	}
	events := make(chan string)
	go readStream(answer.Body, events)
	d := readDocument(t, a)
	schemas := map[string]string{"health": "Health", "event": "Event"}
	next := func(kind, has string) {
		t.Helper()
		late := time.After(5 * time.Second)
		for {
			select {
			case e := <-events:
				if !strings.Contains(e, "event: "+kind+"\n") || !strings.Contains(e, has) {
					continue
				}
				var v any
				if err := json.Unmarshal([]byte(between(t, e, "data: ", "\n")), &v); err != nil {
					t.Fatal(err)
				}
				for _, bad := range d.violations(map[string]any{"$ref": "#/components/schemas/" + schemas[kind]}, v, kind) {
					t.Error(bad)
				}
				return
			case <-late:
				t.Fatalf("no %s with %s", kind, has)
			}
		}
	}
	next("health", `"status":"online"`)
	die(t, s)
	next("event", `"path":"/photos/a"`)
	next("health", `"status":"degraded"`)
}

func TestStreamsAreBounded(t *testing.T) {
	a := New(Options{Store: newFake()})
	for range maxStreams {
		a.streams <- struct{}{}
	}
	wantProblem(t, serve(a, "GET", "/api/v1/stream", ""), 503, "too_many_streams")
}

// readStream sends each event of a stream, as text.
func readStream(r io.Reader, events chan<- string) {
	var b strings.Builder
	for lines := bufio.NewScanner(r); lines.Scan(); {
		b.WriteString(lines.Text() + "\n")
		if lines.Text() == "" {
			events <- b.String()
			b.Reset()
		}
	}
}
