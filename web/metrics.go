package web

import (
	"net/http"
	"reflect"
	"runtime/pprof"
)

// metricsOperations serves what monitoring programs read: metrics to those who
// may see the health's details, or to everybody with Options.MetricsPublic. They
// name no path and no user, but say how much is stored and how it is used.
func (a *Server) metricsOperations() []operation {
	ops := []operation{{
		method: http.MethodGet, path: "/api/v1/debug/goroutines", id: "getGoroutines", tag: "system",
		summary: "The stacks of all goroutines, for a report of what is stuck", media: "text/plain",
		out: reflect.TypeFor[string](), serve: a.getGoroutines,
	}}
	if a.o.Metrics != nil {
		ops = append(ops, operation{
			method: http.MethodGet, path: "/metrics", id: "getMetrics", tag: "health", open: a.o.MetricsPublic,
			summary: "Metrics, as Prometheus reads them", media: "text/plain", out: reflect.TypeFor[string](),
			serve: func(w http.ResponseWriter, r *http.Request) error {
				a.o.Metrics.ServeHTTP(w, r)
				return nil
			},
		})
	}
	return ops
}

// getGoroutines stops the process for about a millisecond per thousand
// goroutines, and waits for no lock of the store.
func (a *Server) getGoroutines(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_ = pprof.Lookup("goroutine").WriteTo(w, 2) // an error means that the client has gone
	return nil
}
