package web

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"engramfs/store"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 64 << 10

// Drill is the body of POST /api/v1/drills, and of its answer.
type Drill struct {
	Path  string `json:"path"`
	Point string `json:"point"` // "": the first one reached
	Cause string `json:"cause"` // panic, goexit or error
}

func (a *admin) getDrills(w http.ResponseWriter, r *http.Request) error {
	if !a.drills {
		return errNoDrills
	}
	return writeJSON(w, struct {
		Points []store.FaultPoint `json:"points"`
		Causes []string           `json:"causes"`
	}{a.points, []string{"panic", "goexit", "error"}})
}

// postDrill arms a one-shot fault and answers with what it armed.
func (a *admin) postDrill(w http.ResponseWriter, r *http.Request) error {
	if !a.drills {
		return errNoDrills
	}
	var d Drill
	if err := readJSON(w, r, &d); err != nil {
		return err
	}
	if d.Path == "" || d.Path[0] != '/' {
		return badRequest("path %q: want an absolute path", d.Path)
	}
	if err := a.store.ArmFault(r.Context(), d.Path, d.Point, d.Cause); err != nil {
		return err
	}
	a.log.Info("admin drill", "path", d.Path, "point", d.Point, "cause", d.Cause,
		"user", a.principal(r), "remote", r.RemoteAddr)
	return writeJSON(w, d)
}

// readJSON reads one JSON value and nothing else into v. The media type is not
// looked at, so that curl -d works: other origins are refused before.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
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
