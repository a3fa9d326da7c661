package web

import (
	"fmt"
	"net/http"
	"net/url"

	"engramfs/store"
)

// Status is the state of the whole server in one word.
type Status string

// The states, best first.
const (
	Online   Status = "online"    // no known problem
	Degraded Status = "degraded"  // serving, but some lock is poisoned or stuck
	ReadOnly Status = "read-only" // serving reads, refusing every write
)

// The states of a lock, as store.LockStatus has them.
const (
	lockHealthy  = "healthy"
	lockPoisoned = "poisoned"
	lockStuck    = "stuck"
)

// Health is the answer of GET /api/v1/health. Problem and Action are empty
// when the status is Online. Locks and Build are left out for requests without
// credentials, as are Problem and Action, which name paths.
type Health struct {
	Status  Status       `json:"status"`
	Problem string       `json:"problem,omitempty"`
	Action  string       `json:"action,omitempty"`
	Locks   *LockSummary `json:"locks,omitempty"`
	Build   *Build       `json:"build,omitempty"`
}

// LockSummary counts the locks listed: domain locks always, inode locks only
// when they are poisoned or stuck.
type LockSummary struct {
	Listed   int `json:"listed"`
	Poisoned int `json:"poisoned"`
	Stuck    int `json:"stuck"`
}

// healthOf is the one function that decides on the status.
func healthOf(locks []store.LockStatus, readOnly error) Health {
	h := Health{Status: Online, Locks: &LockSummary{Listed: len(locks)}}
	var worst *store.LockStatus
	for i := range locks {
		switch locks[i].State {
		case lockPoisoned:
			h.Locks.Poisoned++
		case lockStuck:
			h.Locks.Stuck++
		default:
			continue
		}
		// A stuck lock is worse: it holds up reads too, and cannot be reset.
		if worst == nil || locks[i].State == lockStuck && worst.State != lockStuck {
			worst = &locks[i]
		}
	}
	switch {
	case readOnly != nil:
		h.Status = ReadOnly
		h.Problem = "every write is refused: " + readOnly.Error()
		h.Action = "remove the cause, then restart the server"
	case worst != nil:
		h.Status = Degraded
		h.Problem, h.Action = describe(worst)
		if others := h.Locks.Poisoned + h.Locks.Stuck - 1; others > 0 {
			h.Problem += fmt.Sprintf(" (and %d more)", others)
		}
	}
	return h
}

func describe(l *store.LockStatus) (problem, action string) {
	name := "lock " + l.Name
	if l.Path != "" {
		name += fmt.Sprintf(" (%s)", l.Path)
	}
	if l.State == lockStuck {
		return name + " has been held too long by one request",
			"find the holder in the log; only a restart ends a holder that never returns"
	}
	problem = name + " is poisoned"
	if l.Event != nil {
		problem += fmt.Sprintf(" since %s (%v in %s)", l.Event.At.UTC().Format("2006-01-02 15:04:05 UTC"), l.Event.Cause, l.Event.Op)
	}
	return problem + ": its writes are refused, its reads are served",
		fmt.Sprintf(`POST /api/v1/locks/%s/reset with If-Match: "%d"`, url.PathEscape(l.Name), l.Gen)
}

// getHealth answers 200 in every state but one: a degraded server should not
// be restarted or taken out of service, which is all that a prober can do. A
// lock that is held past the hard limit is the exception, answered 503.
func (a *admin) getHealth(w http.ResponseWriter, r *http.Request) error {
	h := healthOf(a.store.Locks(), a.store.ReadOnly())
	w.Header().Set("Content-Type", "application/json")
	if a.hung() {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if a.private && a.principal(r) == "" {
		return writeJSON(w, Health{Status: h.Status})
	}
	h.Build = &a.build
	return writeJSON(w, h)
}
