package web

import (
	"cmp"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
)

// The words for a check's result, as draft-inadarei-api-health-check-06 has them.
const (
	checkPass = "pass"
	checkWarn = "warn" // something is wrong, and the server is of use all the same
	checkFail = "fail"
)

// check is one thing that a probe looks at. Its name says what is well.
type check struct {
	name   string
	result string
	detail string // what is wrong; it may name a path
}

// Times after which a probe fails.
const (
	// stuckNotReady is how long a lock may be held before this server gets no more
	// requests: what waits for the lock is piling up.
	stuckNotReady = 30 * time.Second
	// watchdogDead is how long the watchdog may be silent before the process counts
	// as dead: it looks every second.
	watchdogDead = time.Minute
)

// liveChecks are the reasons to restart the process. What a restart does not cure
// is none: a supervisor would only restart for ever.
func (a *Server) liveChecks() []check {
	locks := check{name: "locks", result: checkPass}
	if a.o.Hung() {
		locks.result, locks.detail = checkFail, "a lock is held past the hard limit"
	}
	watchdog := check{name: "watchdog", result: checkPass}
	if a.snapshot != nil {
		seen := cmp.Or(a.snapshot().WatchedAt, a.started)
		if silent := a.now().Sub(seen); silent > watchdogDead {
			watchdog.result = checkFail
			watchdog.detail = fmt.Sprintf("nothing has looked for stuck locks for %v", silent.Round(time.Second))
		}
	}
	return []check{locks, watchdog}
}

// readyChecks are the reasons to send requests elsewhere.
func (a *Server) readyChecks() []check {
	o := a.observe()
	degraded := checkWarn
	if a.o.DegradedNotReady {
		degraded = checkFail
	}
	writable := check{name: "writable", result: checkPass}
	if o.readOnly != nil {
		writable.result, writable.detail = checkFail, o.readOnly.Error()
	}
	stuck := check{name: "not-stuck", result: checkPass}
	healthy := check{name: "not-poisoned", result: checkPass}
	if o.locks == nil && o.blind != "" {
		healthy.worsen(checkFail, o.blind)
	}
	for _, l := range o.locks {
		switch l.State {
		case lockPoisoned:
			healthy.worsen(degraded, lockTrouble(&l).What)
		case lockStuck:
			result := checkWarn
			if l.Stuck == nil || o.at.Sub(l.Stuck.Since) > stuckNotReady {
				result = checkFail
			}
			stuck.worsen(result, lockTrouble(&l).What)
		}
	}
	sound := check{name: "not-damaged", result: checkPass}
	for _, d := range o.damaged {
		sound.worsen(degraded, damageTrouble(d).What)
	}
	if o.damageUnknown() {
		sound.worsen(degraded, damageUnknown)
	}
	checks := append(a.liveChecks(), writable, stuck, healthy, sound)
	if o.copy != nil {
		second := check{name: "second-copy", result: checkPass}
		if o.copy.Late { // never a failure: another server would serve no better
			second.worsen(checkWarn, copyTrouble(o.copy).What)
		}
		checks = append(checks, second)
	}
	return checks
}

// worsen adds what is wrong.
func (c *check) worsen(result, detail string) {
	if c.result != checkFail {
		c.result = result
	}
	if c.detail == "" {
		c.detail = detail
	}
}

// worst returns the result of all of them together.
func worst(checks []check) string {
	result := checkPass
	for _, c := range checks {
		if c.result == checkFail {
			return checkFail
		}
		if c.result == checkWarn {
			result = checkWarn
		}
	}
	return result
}

// probeOperations serve supervisors and load balancers. They are open: a prober has
// no password, and learns no more than names of checks. /healthz is an old name of
// /livez.
func (a *Server) probeOperations() []operation {
	probe := func(path, id, summary string, checks func() []check) operation {
		op := operation{
			method: http.MethodGet, path: path, id: id, tag: "health", open: true, media: "text/plain",
			summary: summary, out: reflect.TypeFor[string](), also: []int{http.StatusServiceUnavailable},
			serve: func(w http.ResponseWriter, r *http.Request) error { return a.answerProbe(w, r, checks()) },
		}
		return op.with(
			param{in: "query", name: "verbose", kind: "string", doc: "Show each check; its reason only to those who may see the health's details."},
			param{in: "query", name: "exclude", kind: "string", doc: "Name of a check to pass by; may be repeated."},
		)
	}
	return []operation{
		probe("/livez", "getLive", "Whether the process works; if not, it must be restarted", a.liveChecks),
		probe("/healthz", "getLiveOld", "The same as /livez", a.liveChecks),
		probe("/readyz", "getReady", "Whether to send requests here", a.readyChecks),
	}
}

// answerProbe answers 200, or 503 if a check fails.
func (a *Server) answerProbe(w http.ResponseWriter, r *http.Request, checks []check) error {
	q := r.URL.Query()
	var excluded []string
	checks = slices.DeleteFunc(checks, func(c check) bool {
		skip := slices.Contains(q["exclude"], c.name)
		if skip {
			excluded = append(excluded, c.name)
		}
		return skip
	})
	result := worst(checks)
	var b strings.Builder
	if q.Has("verbose") && q.Get("verbose") != "0" && q.Get("verbose") != "false" || result == checkFail {
		a.describeChecks(&b, r, checks)
		for _, name := range q["exclude"] {
			if !slices.Contains(excluded, name) {
				fmt.Fprintf(&b, "warn: there is no check %q to exclude\n", name)
			}
		}
	}
	b.WriteString(result + "\n")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if result == checkFail {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write([]byte(b.String())) // an error means that the client has gone
	return nil
}

func (a *Server) describeChecks(b *strings.Builder, r *http.Request, checks []check) {
	marks := map[string]string{checkPass: "[+]", checkWarn: "[!]", checkFail: "[-]"}
	for _, c := range checks {
		detail := c.detail
		if detail != "" && !a.maySee(r) {
			detail = "reason withheld"
		}
		line := marks[c.result] + c.name + " " + c.result
		if detail != "" {
			line += ": " + detail
		}
		b.WriteString(line + "\n")
	}
}

// maySee reports whether r is of somebody who may see the health's details.
func (a *Server) maySee(r *http.Request) bool { return !a.private || whoIs(r).name != "" }
