package web

import (
	"cmp"
	"errors"
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
	// Stuck says since when and by what the lock is held; absent: it is not stuck.
	Stuck *Holder `json:"stuck,omitempty"`
	// Detail is in the answer for a single lock only.
	Detail *Poisoning `json:"event,omitempty"`
}

// Holder is a section that holds a lock for too long.
type Holder struct {
	Op    string    `json:"op,omitempty"` // "": a reader, which is not known by name
	Mode  string    `json:"mode"`         // write or read
	Since time.Time `json:"since"`
	Hard  bool      `json:"hard"` // only a restart helps
}

// Poisoning is how a lock was poisoned, with all that an admin may see.
type Poisoning struct {
	ID    string   `json:"id"`
	Value string   `json:"value"` // the panic value or error as text
	Also  []string `json:"also,omitempty"`
	Stack []string `json:"stack,omitempty"` // one line each
}

func lockOf(s store.LockStatus, stuck *poison.Stuck) Lock {
	l := Lock{LockStatus: s}
	if ev := s.Event; ev != nil {
		l.Op, l.Cause, l.Since = ev.Op, ev.Cause.String(), ev.At.UTC()
	}
	if stuck != nil {
		l.Stuck = &Holder{Op: stuck.Op, Mode: stuck.Mode, Since: stuck.Since.UTC(), Hard: stuck.Hard}
	}
	return l
}

func poisoningOf(ev *poison.Event) *Poisoning {
	if ev == nil {
		return nil
	}
	return &Poisoning{ID: ev.ID, Value: ev.Value, Also: ev.Also, Stack: stackLines(ev.Stack)}
}

func stackLines(stack []byte) []string {
	if len(stack) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(stack)), "\n")
}

// LockList is the answer of GET /api/v1/locks.
type LockList struct {
	Locks []Lock `json:"locks"`
}

// ResetRequest is the body of a reset; it may be left out.
type ResetRequest struct {
	Reason string `json:"reason,omitempty"` // for the audit log
}

func (a *Server) lockOperations() []operation {
	ifMatch := param{in: "header", name: "If-Match", kind: "string", required: true, doc: `The generation that was seen, such as "3".`}
	dryRun := param{in: "query", name: "dry_run", kind: "boolean", doc: "Report what the reset would do, and change nothing."}
	return []operation{
		get("/api/v1/locks", "listLocks", "locks", "The domain locks, and the inode locks that are poisoned or stuck", a.getLocks),
		get("/api/v1/locks/{name}", "getLock", "locks", "One lock, with the stack of what poisoned it; its ETag is the generation", a.getLock),
		postOptional("/api/v1/locks/{name}/reset", "resetLock", "locks", "Rebuild what a poisoned lock guards, check it, and clear the lock", a.postReset).with(ifMatch, dryRun),
	}
}

func (a *Server) getLocks(http.ResponseWriter, *http.Request) (LockList, error) {
	o := a.observe()
	if o.locks == nil && o.blind != "" {
		return LockList{}, errBlind
	}
	return LockList{Locks: append([]Lock{}, o.locks...)}, nil
}

// lock returns one lock with its event.
func (a *Server) lock(name string) (Lock, error) {
	s, err := a.store.LockStatus(name)
	if err != nil {
		return Lock{}, &lockError{lock: name, err: err}
	}
	var stuck *poison.Stuck
	if a.snapshot != nil {
		for _, l := range a.snapshot().Locks {
			if l.Name == name {
				stuck = l.Stuck
			}
		}
	}
	l := lockOf(s, stuck)
	l.Detail = poisoningOf(s.Event)
	return l, nil
}

// getLock shows one lock; its ETag is what a reset has to send as If-Match.
func (a *Server) getLock(w http.ResponseWriter, r *http.Request) (Lock, error) {
	name, err := pathParam(r, "name")
	if err != nil {
		return Lock{}, err
	}
	l, err := a.lock(name)
	if err == nil {
		w.Header().Set("ETag", strconv.Quote(strconv.FormatUint(l.Gen, 10)))
	}
	return l, err
}

func (a *Server) postReset(_ http.ResponseWriter, r *http.Request, in ResetRequest) (*store.ResetReport, error) {
	name, err := pathParam(r, "name")
	if err != nil {
		return nil, err
	}
	gen, err := wantedGen(r)
	if err != nil {
		return nil, err
	}
	dryRun, err := boolParam(r, "dry_run")
	if err != nil {
		return nil, err
	}
	return a.reset(r, name, gen, dryRun, in.Reason)
}

// reset rebuilds a lock, for the API and the page alike. The report is nil only
// if there is no such lock or the audit log refused.
func (a *Server) reset(r *http.Request, name string, gen uint64, dryRun bool, reason string) (report *store.ResetReport, err error) {
	act := action{name: "lock.reset", target: name, reason: reason, facts: map[string]any{"gen": gen}}
	if dryRun {
		act.name = "lock.reset.dry_run"
	}
	err = a.do(r, act, func(done *action) error {
		if !dryRun {
			s, _ := a.store.LockStatus(name)
			defer a.resets.begin(name, s.Path, a.now())()
		}
		report, err = a.store.ResetLock(r.Context(), name, gen, dryRun)
		if report != nil {
			done.facts["took_ns"], done.facts["problems"] = report.Took.Nanoseconds(), len(report.Problems)
			done.facts["reloaded"], done.facts["repaired"] = len(report.Reloaded), len(report.Repaired)
		}
		if err != nil {
			return &lockError{lock: name, gen: gen, report: report, err: err}
		}
		return nil
	})
	return report, err
}

// pathParam returns the value of a path's variable. chi matches the escaped path
// when there is one, and then hands out the escaped form.
func pathParam(r *http.Request, key string) (string, error) {
	value := chi.URLParam(r, key)
	if r.URL.RawPath == "" {
		return value, nil
	}
	value, err := url.PathUnescape(value)
	if err != nil {
		return "", badRequest("%s: %v", key, err)
	}
	return value, nil
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

// reportOf returns the report of a reset that failed, if it came so far.
func reportOf(err error) *store.ResetReport {
	if lock := (*lockError)(nil); errors.As(err, &lock) {
		return lock.report
	}
	return nil
}

// guards says in words what a lock protects, and what stands still while it is
// poisoned, for people who did not write the store.
func guards(name string) string {
	family, _, _ := strings.Cut(name, ":")
	return cmp.Or(map[string]string{
		"inode":      "a file or folder",
		"alloc":      "creating files and folders",
		"usage":      "counting files and bytes",
		"dav-locks":  "locking through WebDAV",
		"file-locks": "locking files (flock, fcntl)",
	}[family], "a part of the store")
}
