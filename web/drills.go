package web

import (
	"net/http"

	"engramfs/store"
)

// Drill is the body of POST /api/v1/drills, and of its answer.
type Drill struct {
	Path  string `json:"path"`
	Point string `json:"point,omitempty"` // "": the first one reached
	Cause string `json:"cause"`           // panic, goexit, error or hold
}

// drillCauses are the ways in which a drill can strike.
var drillCauses = []string{"panic", "goexit", "error", "hold"}

// DrillPoints is the answer of GET /api/v1/drills.
type DrillPoints struct {
	Points []store.FaultPoint `json:"points"`
	Causes []string           `json:"causes"`
}

func (a *Server) drillOperations() []operation {
	return []operation{
		get("/api/v1/drills", "listDrills", "drills", "Where and how a drill can strike", a.getDrills),
		post("/api/v1/drills", "armDrill", "drills", "Make the next change of a file fail on purpose, once", a.postDrill),
	}
}

func (a *Server) getDrills(http.ResponseWriter, *http.Request) (DrillPoints, error) {
	if !a.o.Drills {
		return DrillPoints{}, errNoDrills
	}
	return DrillPoints{a.o.Points, drillCauses}, nil
}

func (a *Server) postDrill(_ http.ResponseWriter, r *http.Request, d Drill) (Drill, error) {
	return d, a.arm(r, d)
}

// arm arms a one-shot fault, for the API and the page alike.
func (a *Server) arm(r *http.Request, d Drill) error {
	if !a.o.Drills {
		return errNoDrills
	}
	if d.Path == "" || d.Path[0] != '/' {
		return badRequest("path %q: want an absolute path", d.Path)
	}
	act := action{name: "drill.arm", target: d.Path, facts: map[string]any{"point": d.Point, "cause": d.Cause}}
	return a.do(r, act, func(*action) error { return a.store.ArmFault(r.Context(), d.Path, d.Point, d.Cause) })
}
