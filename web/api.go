package web

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strconv"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 64 << 10

// operation is one line of the API: what is served, and what the document at
// /openapi.json says of it. Both come from the same line, so that they agree.
type operation struct {
	method, path string
	id           string // operationId
	tag          string
	summary      string
	open         bool // answers requests without credentials, too
	params       []param
	in           reflect.Type // body; nil: none
	inOptional   bool
	out          reflect.Type // answer with status 200
	media        string       // of the answer; "": application/json
	also         []int        // other statuses with the same answer
	serve        func(http.ResponseWriter, *http.Request) error
}

// param is a parameter of an operation besides those in its path.
type param struct {
	in, name string // in: query or header
	kind     string // a type of JSON schema
	required bool
	doc      string
}

// get is an operation that reads.
func get[Out any](path, id, tag, summary string, h func(http.ResponseWriter, *http.Request) (Out, error)) operation {
	return operation{
		method: http.MethodGet, path: path, id: id, tag: tag, summary: summary, out: reflect.TypeFor[Out](),
		serve: func(w http.ResponseWriter, r *http.Request) error {
			v, err := h(w, r)
			if err != nil {
				return err
			}
			return writeJSON(w, v)
		},
	}
}

// none is the body of an operation that takes none.
type none struct{}

// post is an operation that does something.
func post[In, Out any](path, id, tag, summary string, h func(http.ResponseWriter, *http.Request, In) (Out, error)) operation {
	op := operation{
		method: http.MethodPost, path: path, id: id, tag: tag, summary: summary,
		in: reflect.TypeFor[In](), out: reflect.TypeFor[Out](),
	}
	if op.in == reflect.TypeFor[none]() {
		op.in = nil
	}
	op.serve = func(w http.ResponseWriter, r *http.Request) error { return serveBody(op.in != nil, false, h, w, r) }
	return op
}

// postOptional is post with a body that may be left out.
func postOptional[In, Out any](path, id, tag, summary string, h func(http.ResponseWriter, *http.Request, In) (Out, error)) operation {
	op := post(path, id, tag, summary, h)
	op.inOptional = true
	op.serve = func(w http.ResponseWriter, r *http.Request) error { return serveBody(true, true, h, w, r) }
	return op
}

func serveBody[In, Out any](body, optional bool, h func(http.ResponseWriter, *http.Request, In) (Out, error), w http.ResponseWriter, r *http.Request) error {
	var in In
	if body {
		if err := readJSON(w, r, &in); err != nil && !(optional && errors.Is(err, errNoBody)) {
			return err
		}
	}
	v, err := h(w, r, in)
	if err != nil {
		return err
	}
	return writeJSON(w, v)
}

// with adds parameters.
func (op operation) with(params ...param) operation {
	op.params = append(op.params, params...)
	return op
}

// operations is the API, in the order of its document.
func (a *Server) operations() []operation {
	var ops []operation
	for _, part := range [][]operation{
		a.healthOperations(), a.probeOperations(), a.metricsOperations(), a.lockOperations(), a.eventOperations(), a.fileOperations(),
		a.jobOperations(), a.scrubOperations(), a.usageOperations(), a.systemOperations(), a.drillOperations(),
		a.auditOperations(), a.streamOperations(), a.documentOperations(),
	} {
		ops = append(ops, part...)
	}
	return ops
}

func (a *Server) documentOperations() []operation {
	return []operation{{
		method: http.MethodGet, path: "/openapi.json", id: "getDocument", tag: "system", open: true,
		summary: "This document (OpenAPI 3.1)", out: reflect.TypeFor[map[string]any](),
		serve: func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(a.openAPI) // an error means that the client has gone
			return nil
		},
	}}
}

// readJSON reads one JSON value and nothing else into v. The media type is not
// looked at, so that curl -d works: other origins are refused before.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			return errNoBody
		}
		if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
			return &apiError{http.StatusRequestEntityTooLarge, "too_large", "the body is too large"}
		}
		return badRequest("body: %v", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return badRequest("body: want one JSON value and nothing after it")
	}
	return nil
}

// intParam returns a query parameter between low and high, or def without one.
func intParam(r *http.Request, name string, def, low, high uint64) (uint64, error) {
	if !r.URL.Query().Has(name) {
		return def, nil
	}
	text := r.URL.Query().Get(name)
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil || v < low || v > high {
		return 0, badRequest("%s=%s: want a number from %d to %d", name, text, low, high)
	}
	return v, nil
}

func boolParam(r *http.Request, name string) (bool, error) {
	if !r.URL.Query().Has(name) {
		return false, nil
	}
	v, err := strconv.ParseBool(r.URL.Query().Get(name))
	if err != nil {
		return false, badRequest("%s=%s: want 0 or 1", name, r.URL.Query().Get(name))
	}
	return v, nil
}

// hasStatus is an answer that does not always have the status 200.
type hasStatus interface{ httpStatus() int }

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	if s, ok := v.(hasStatus); ok {
		w.WriteHeader(s.httpStatus())
	}
	writeBody(w, v)
	return nil
}

// writeBody writes v as JSON that a person can read. An error means that the
// client has gone.
func writeBody(w http.ResponseWriter, v any) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}
