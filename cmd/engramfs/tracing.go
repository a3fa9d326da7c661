package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"engramfs/internal/tracing"
)

// tracingFlags say where traces of requests go.
type tracingFlags struct {
	OTLPEndpoint string  `name:"otlp-endpoint" placeholder:"URL" help:"Send OpenTelemetry traces to this collector over OTLP/HTTP, such as http://127.0.0.1:4318. OTEL_EXPORTER_OTLP_ENDPOINT does it, too."`
	TraceSample  float64 `default:"1" placeholder:"RATIO" help:"The part of the requests to trace, 0 to 1 (${default}). OTEL_TRACES_SAMPLER wins."`
	TracePaths   bool    `help:"Let traces name files: the paths of requests, and what panics say."`
}

func (f *tracingFlags) validate() error {
	if !(f.TraceSample >= 0 && f.TraceSample <= 1) { // NaN is neither
		return fmt.Errorf("--trace-sample %v: want 0 to 1", f.TraceSample)
	}
	if f.OTLPEndpoint != "" {
		if err := tracing.CheckEndpoint(f.OTLPEndpoint); err != nil {
			return fmt.Errorf("--otlp-endpoint: %w", err)
		}
	}
	return nil
}

// openTracer makes the tracer if traces are wanted. Files are served without it, too:
// the environment may be that of all programs of a machine.
func (s *server) openTracer(ctx context.Context) {
	f := &s.cfg.tracingFlags
	if !tracing.Wanted(f.OTLPEndpoint) {
		return
	}
	t, err := tracing.New(ctx, tracing.Options{
		Endpoint: f.OTLPEndpoint, Ratio: f.TraceSample, Paths: f.TracePaths,
		Version: programVersion(), Instance: s.instance(), Logger: s.log,
	})
	if err != nil {
		s.log.Warn("requests are not traced", "err", err)
		return
	}
	s.tracer = t
}

// instance tells this server from others: it is what Prometheus calls it if it
// knows the machine by its name.
func (s *server) instance() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	for _, l := range []net.Listener{s.admin, s.dav} {
		if l != nil {
			_, port, _ := net.SplitHostPort(l.Addr().String())
			return net.JoinHostPort(host, port)
		}
	}
	return host
}

// traceTimeout bounds how long the end of the server waits for the collector.
const traceTimeout = 3 * time.Second

// closeTracer sends what is left. That it cannot be sent is no failure of the server.
func (s *server) closeTracer() {
	ctx, cancel := context.WithTimeout(context.Background(), traceTimeout)
	defer cancel()
	if err := s.tracer.Close(ctx); err != nil {
		s.log.Warn("traces are lost", "err", err)
	}
}
