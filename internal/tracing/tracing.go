// Package tracing sends OpenTelemetry traces to a collector, over OTLP/HTTP: a
// span for every request of every door, and beneath it a span for each of the
// store's operations that it is made of.
//
// A request never waits for the collector. Spans wait in a queue of a fixed size;
// what finds it full, and what the collector does not take, is dropped and counted.
// A trace names no file and no user unless it is asked to: then it has the paths of
// requests, and what panics say. It always has numbers of inodes, the patterns of the
// admin surface's routes, and what clients call themselves and their requests
// (User-Agent, X-Request-Id).
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Options of New.
type Options struct {
	// Endpoint is the URL of a collector, to whose path /v1/traces is added, as to
	// that of OTEL_EXPORTER_OTLP_ENDPOINT. "": what the environment says.
	Endpoint string
	// Ratio is the part of the requests that is followed, from 0 to 1, of those whose
	// client has not decided (W3C Trace Context). OTEL_TRACES_SAMPLER wins over it.
	Ratio float64
	// Paths: spans may name files: they have the paths of HTTP requests, and the values
	// of panics.
	Paths bool

	Version  string       // of the program
	Instance string       // of the program, among several
	Logger   *slog.Logger // nil: nothing is logged
}

// Wanted reports whether spans have somewhere to go: to the given endpoint or to
// that of the environment, unless OTEL_SDK_DISABLED is true or OTEL_TRACES_EXPORTER is
// none.
func Wanted(endpoint string) bool {
	return !strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") && !strings.EqualFold(os.Getenv("OTEL_TRACES_EXPORTER"), "none") &&
		(endpoint != "" || os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "")
}

// Tracer follows requests. A nil *Tracer follows none: its methods then return what
// costs nothing. All methods may be called by several goroutines at once.
type Tracer struct {
	// Immutable after New.
	tracer   trace.Tracer
	provider *sdktrace.TracerProvider
	queue    *queue
	exporter *exporter
	ratio    float64 // of the requests whose client has not decided
	paths    bool
}

// New returns a tracer that sends spans until Close. What of the environment makes no
// sense is logged and left out, as far as the SDK can do without it.
func New(ctx context.Context, o Options) (*Tracer, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	// The SDK has no other way to say that a variable of its own makes no sense.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { o.Logger.Warn("opentelemetry", "err", shortened(err)) }))
	var to []otlptracehttp.Option
	if o.Endpoint != "" {
		u, err := tracesURL(o.Endpoint)
		if err != nil {
			return nil, err
		}
		to = append(to, otlptracehttp.WithEndpointURL(u))
	}
	client, err := otlptrace.New(ctx, otlptracehttp.NewClient(to...))
	if err != nil {
		return nil, fmt.Errorf("trace exporter: %w", err)
	}
	from, err := describe(ctx, o)
	if err != nil {
		o.Logger.Warn("traces do not have all that the environment says of this program", "err", shortened(err))
	}
	q := new(queue)
	t := &Tracer{queue: q, exporter: &exporter{SpanExporter: client, queue: q, log: o.Logger}, ratio: o.Ratio, paths: o.Paths}
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor(t.exporter, sdktrace.WithMaxQueueSize(queueSize))
	settings := []sdktrace.TracerProviderOption{sdktrace.WithSpanProcessor(q), sdktrace.WithResource(from), sdktrace.WithRawSpanLimits(limits())}
	if os.Getenv("OTEL_TRACES_SAMPLER") == "" {
		settings = append(settings, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))
	} else {
		t.ratio = 1 // the SDK's sampler decides
	}
	t.provider = sdktrace.NewTracerProvider(settings...)
	t.tracer = t.provider.Tracer("engramfs", trace.WithInstrumentationVersion(o.Version), trace.WithSchemaURL(semconv.SchemaURL))
	return t, nil
}

// tracesPath is where a collector takes traces (OTLP specification).
const tracesPath = "/v1/traces"

// tracesURL returns the URL for traces of a collector. Secrets in it would end up
// in logs: OTEL_EXPORTER_OTLP_HEADERS is for these.
func tracesURL(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return "", errors.New("want the URL of a collector, such as http://127.0.0.1:4318, without a password")
	}
	if !strings.HasSuffix(u.Path, tracesPath) {
		u.Path = strings.TrimSuffix(u.Path, "/") + tracesPath
	}
	return u.String(), nil
}

// CheckEndpoint returns why New would refuse an endpoint, nil if it would not.
func CheckEndpoint(endpoint string) error {
	_, err := tracesURL(endpoint)
	return err
}

// describe returns what sends the spans. OTEL_RESOURCE_ATTRIBUTES and
// OTEL_SERVICE_NAME add to it and win over it. With an error some of it is missing.
func describe(ctx context.Context, o Options) (*resource.Resource, error) {
	r, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(), resource.WithAttributes(
		semconv.ServiceName("engramfs"), semconv.ServiceVersion(o.Version), semconv.ServiceInstanceID(o.Instance),
	), resource.WithFromEnv())
	return sendable(r), err
}

// Stats returns how many spans the collector has taken since the start, and how
// many were dropped.
func (t *Tracer) Stats() (sent, dropped uint64) {
	return t.exporter.sent.Load(), t.queue.dropped.Load()
}

// Close sends what waits, until ctx ends, and stops. Requests that end later are
// not sent.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	err := t.provider.Shutdown(ctx)
	if err != nil && ctx.Err() != nil {
		// What is being sent would go on. This cuts it off.
		_ = t.exporter.Shutdown(ctx) // its error is ctx's
		return fmt.Errorf("%d spans not sent: %w", t.queue.waiting.Load(), err)
	}
	return err
}
