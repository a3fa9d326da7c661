package web

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// healthMedia is what draft-inadarei-api-health-check-06 calls its format, which
// some monitoring programs know.
const healthMedia = "application/health+json"

// apiHealth is the health in that format.
type apiHealth struct {
	Status      string                `json:"status"` // pass, warn or fail
	Version     string                `json:"version,omitempty"`
	ReleaseID   string                `json:"releaseId,omitempty"`
	Description string                `json:"description,omitempty"`
	Output      string                `json:"output,omitempty"` // what is wrong
	Notes       []string              `json:"notes,omitempty"`
	Checks      map[string][]apiCheck `json:"checks,omitempty"`
	Links       map[string]string     `json:"links,omitempty"`
}

// apiCheck is one of its checks.
type apiCheck struct {
	ComponentType string     `json:"componentType"`
	ObservedValue any        `json:"observedValue"`
	ObservedUnit  string     `json:"observedUnit,omitempty"`
	Status        string     `json:"status"`
	Time          *time.Time `json:"time,omitempty"`
	Output        string     `json:"output,omitempty"`
}

// wantsHealthJSON reports whether the client asks for that format by name.
func wantsHealthJSON(r *http.Request) bool {
	for accept := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		media, _, _ := strings.Cut(accept, ";")
		if strings.EqualFold(strings.TrimSpace(media), healthMedia) {
			return true
		}
	}
	return false
}

// withHealthJSON answers in that format those who ask for it, and lets next
// answer the others.
func (a *Server) withHealthJSON(next func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Add("Vary", "Accept")
		if !wantsHealthJSON(r) {
			return next(w, r)
		}
		h := a.apiHealth(a.maySee(r))
		w.Header().Set("Content-Type", healthMedia)
		if h.Status == checkFail {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(h) // an error means that the client has gone
		return nil
	}
}

// apiHealth is "fail" when /livez fails: in this format, as in the other, a
// read-only or a degraded server is of use and answers 200.
func (a *Server) apiHealth(details bool) apiHealth {
	o := a.observe()
	health := a.healthOf(o)
	h := apiHealth{Status: checkPass}
	if health.Status != Online {
		h.Status = checkWarn
	}
	if worst(a.liveChecks()) == checkFail {
		h.Status = checkFail
	}
	if !details {
		return h
	}
	h.Version, h.ReleaseID = "1", a.o.Build.Version
	h.Description, h.Output, h.Notes = "health of an EngramFS server", health.Problem, health.Notes
	h.Links = map[string]string{"self": "/api/v1/health", "locks": "/api/v1/locks", "events": "/api/v1/events"}
	h.Checks = map[string][]apiCheck{}
	at := o.at.UTC()
	for i := range o.locks {
		l := &o.locks[i]
		c := apiCheck{ComponentType: "component", ObservedValue: l.State, Status: checkPass, Time: &at}
		if l.State != lockHealthy {
			t := lockTrouble(l)
			c.Status, c.Output = checkWarn, t.What
			c.Time = cmp.Or(t.Since, c.Time)
		}
		h.Checks["lock:"+l.Name] = []apiCheck{c}
	}
	writable := apiCheck{ComponentType: "datastore", ObservedValue: o.readOnly == nil, Status: checkPass, Time: &at}
	if o.readOnly != nil {
		writable.Status, writable.Output = checkWarn, o.readOnly.Error()
	}
	h.Checks["store:writable"] = []apiCheck{writable}
	if o.noDamage == nil { // unknown is left out, not 0
		damaged := apiCheck{ComponentType: "datastore", ObservedValue: len(o.damaged), ObservedUnit: "places", Status: checkPass, Time: &at}
		if len(o.damaged) > 0 {
			damaged.Status, damaged.Output = checkWarn, damageTrouble(o.damaged[0]).What
		}
		h.Checks["content:damaged"] = []apiCheck{damaged}
	}
	if o.copy != nil {
		second := apiCheck{ComponentType: "datastore", ObservedValue: o.copy.State, Status: checkPass, Time: o.copy.AsOf}
		if o.copy.Late {
			second.Status, second.Output = checkWarn, copyTrouble(o.copy).What
		}
		h.Checks["metadata:second-copy"] = []apiCheck{second}
	}
	return h
}
