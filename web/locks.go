package web

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"engramfs/store"
	"engramfs/store/poison"
)

// Lock is one lock as the API shows it.
type Lock struct {
	store.LockStatus
	Op    string    `json:"op,omitempty"`    // the operation that poisoned it
	Cause string    `json:"cause,omitempty"` // panic, goexit, invariant or manual
	Since time.Time `json:"since,omitzero"`
	// Detail is in the answer for a single lock only.
	Detail *Event `json:"event,omitempty"`
}

// Event is how a lock was poisoned, with all that an admin may see.
type Event struct {
	ID    string   `json:"id"`
	Value string   `json:"value"` // the panic value or error as text
	Also  []string `json:"also,omitempty"`
	Stack []string `json:"stack,omitempty"` // one line each
}

func lockOf(s store.LockStatus) Lock {
	l := Lock{LockStatus: s}
	if ev := s.Event; ev != nil {
		l.Op, l.Cause, l.Since = ev.Op, ev.Cause.String(), ev.At.UTC()
	}
	return l
}

func eventOf(ev *poison.Event) *Event {
	if ev == nil {
		return nil
	}
	e := &Event{ID: ev.ID, Value: ev.Value, Also: ev.Also}
	if len(ev.Stack) > 0 {
		e.Stack = strings.Split(strings.TrimSpace(string(ev.Stack)), "\n")
	}
	return e
}

func (a *admin) getLocks(w http.ResponseWriter, r *http.Request) error {
	answer := struct {
		Locks []Lock `json:"locks"`
	}{Locks: []Lock{}}
	for _, s := range a.store.Locks() {
		answer.Locks = append(answer.Locks, lockOf(s))
	}
	return writeJSON(w, answer)
}

// getLock shows one lock; its ETag is what a reset has to send as If-Match.
func (a *admin) getLock(w http.ResponseWriter, r *http.Request) error {
	name, err := lockName(r)
	if err != nil {
		return err
	}
	s, err := a.store.LockStatus(name)
	if err != nil {
		return &lockError{lock: name, err: err}
	}
	l := lockOf(s)
	l.Detail = eventOf(s.Event)
	w.Header().Set("ETag", strconv.Quote(strconv.FormatUint(s.Gen, 10)))
	return writeJSON(w, l)
}

// postReset rebuilds a poisoned lock and answers with the report. Every
// attempt is logged with who asked for it.
func (a *admin) postReset(w http.ResponseWriter, r *http.Request) error {
	name, err := lockName(r)
	if err != nil {
		return err
	}
	gen, err := wantedGen(r)
	if err != nil {
		return err
	}
	dryRun, err := boolParam(r, "dry_run")
	if err != nil {
		return err
	}
	log := a.log.With("lock", name, "gen", gen, "dry_run", dryRun, "user", a.principal(r), "remote", r.RemoteAddr)
	report, err := a.store.ResetLock(r.Context(), name, gen, dryRun)
	if err != nil {
		log.Warn("admin reset failed", "err", err)
		return &lockError{lock: name, gen: gen, report: report, err: err}
	}
	log.Info("admin reset", "took", report.Took, "problems", len(report.Problems))
	return writeJSON(w, report)
}

// lockName returns the name in the path. chi matches the escaped path when
// there is one, and then hands out the escaped form.
func lockName(r *http.Request) (string, error) {
	name := chi.URLParam(r, "name")
	if r.URL.RawPath == "" {
		return name, nil
	}
	name, err := url.PathUnescape(name)
	if err != nil {
		return "", badRequest("lock name: %v", err)
	}
	return name, nil
}

// wantedGen returns the generation in If-Match: exactly one strong tag that is
// a number. A star would reset a poisoning that nobody has seen.
func wantedGen(r *http.Request) (uint64, error) {
	lines := r.Header.Values("If-Match")
	if len(lines) == 0 || lines[0] == "*" {
		return 0, errNoGen
	}
	text := strings.TrimSpace(lines[0])
	digits, ok := strings.CutPrefix(text, `"`)
	digits, closed := strings.CutSuffix(digits, `"`)
	gen, err := strconv.ParseUint(digits, 10, 64)
	if len(lines) > 1 || !ok || !closed || err != nil {
		return 0, badRequest(`If-Match %s: want one quoted generation, such as "3"`, text)
	}
	return gen, nil
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
