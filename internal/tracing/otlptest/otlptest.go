// Package otlptest is a collector of OpenTelemetry traces for tests.
package otlptest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is a span that was received.
type Span struct {
	*tracepb.Span
	Resource map[string]any // attributes of the program that has sent it
}

// Attr returns an attribute, nil if the span does not have it.
func (s Span) Attr(key string) any { return attributes(s.Attributes)[key] }

// Exceptions returns the attributes of the exceptions that the span tells of.
func (s Span) Exceptions() (all []map[string]any) {
	for _, e := range s.Events {
		if e.Name == "exception" {
			all = append(all, attributes(e.Attributes))
		}
	}
	return all
}

// Failed reports whether the status of the span is an error.
func (s Span) Failed() bool { return s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR }

func attributes(list []*commonpb.KeyValue) map[string]any {
	all := make(map[string]any, len(list))
	for _, a := range list {
		switch v := a.Value.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			all[a.Key] = v.StringValue
		case *commonpb.AnyValue_BoolValue:
			all[a.Key] = v.BoolValue
		case *commonpb.AnyValue_IntValue:
			all[a.Key] = v.IntValue
		case *commonpb.AnyValue_DoubleValue:
			all[a.Key] = v.DoubleValue
		default:
			all[a.Key] = a.Value.String()
		}
	}
	return all
}

// Partial is a partial success, as a collector answers it.
type Partial struct {
	Rejected int64 // spans
	Message  string
}

// Collector receives traces over OTLP/HTTP.
type Collector struct {
	*httptest.Server
	Refuse atomic.Bool             // answers 400, after which nobody tries again
	Answer atomic.Pointer[Partial] // nil: an empty one

	mu    sync.Mutex
	spans []Span
}

// New starts a collector, which ends with the test.
func New(t testing.TB) *Collector {
	c := &Collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var got coltracepb.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &got)
		}
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("the collector got %s %s, %s: %v", r.Method, r.URL, r.Header, err)
		}
		if c.Refuse.Load() {
			http.Error(w, "refused", http.StatusBadRequest)
			return
		}
		c.add(&got)
		if p := c.Answer.Load(); p != nil {
			answer, err := proto.Marshal(&coltracepb.ExportTraceServiceResponse{PartialSuccess: &coltracepb.ExportTracePartialSuccess{
				RejectedSpans: p.Rejected, ErrorMessage: p.Message,
			}})
			if err != nil {
				t.Errorf("partial success: %v", err)
			}
			w.Header().Set("Content-Type", "application/x-protobuf")
			_, _ = w.Write(answer)
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *Collector) add(r *coltracepb.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, from := range r.ResourceSpans {
		for _, scope := range from.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, Span{s, attributes(from.Resource.Attributes)})
			}
		}
	}
}

// Spans returns what was received, in the order of their beginnings.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Clone(c.spans)
	slices.SortStableFunc(all, func(a, b Span) int { return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano)) })
	return all
}

// Roots returns the spans of that name that are no other span's child.
func (c *Collector) Roots(name string) (all []Span) {
	for _, s := range c.Spans() {
		if s.Name == name && len(s.ParentSpanId) == 0 {
			all = append(all, s)
		}
	}
	return all
}

// Children returns the spans directly beneath s. Each of them is in its trace and
// within its time.
func (c *Collector) Children(t testing.TB, s Span) (all []Span) {
	t.Helper()
	for _, child := range c.Spans() {
		if string(child.ParentSpanId) != string(s.SpanId) {
			continue
		}
		if string(child.TraceId) != string(s.TraceId) {
			t.Errorf("%s is beneath %s and in another trace", child.Name, s.Name)
		}
		if child.StartTimeUnixNano < s.StartTimeUnixNano || child.EndTimeUnixNano > s.EndTimeUnixNano || child.StartTimeUnixNano > child.EndTimeUnixNano {
			t.Errorf("%s is not within the time of %s", child.Name, s.Name)
		}
		all = append(all, child)
	}
	return all
}

// Await waits until ok.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
