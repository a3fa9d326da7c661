package web

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"engramfs/store"
	"engramfs/store/poison"
)

// Status is the state of the whole server in one word.
type Status string

// The states.
const (
	Online     Status = "online"     // no known problem
	Degraded   Status = "degraded"   // serving, but some lock is poisoned or some content damaged
	Rebuilding Status = "rebuilding" // degraded, and a reset is at work
	Stuck      Status = "stuck"      // a request holds a lock and does not give it back
	ReadOnly   Status = "read-only"  // serving reads, refusing every write
	Unknown    Status = "unknown"    // the health cannot be told
)

// Health is the answer of GET /api/v1/health. Requests without credentials get
// the status alone: the rest names paths.
type Health struct {
	Status Status `json:"status"`
	*HealthDetails
	hung bool
}

// HealthDetails is all of the health but the word. Problem and Action are empty
// when the status is Online.
type HealthDetails struct {
	Problem  string       `json:"problem,omitempty"`
	Action   string       `json:"action,omitempty"`
	Progress []Activity   `json:"progress"` // what is being done about it
	Troubles []Trouble    `json:"troubles"` // the worst first
	Locks    *LockSummary `json:"locks"`    // null: unknown
	Damaged  *int         `json:"damaged"`  // places with damaged content; null: unknown
	// Copy is absent if no second copy of the metadata is kept.
	Copy  *MetadataCopy `json:"second_copy,omitempty"`
	Notes []string      `json:"notes"` // what an operator should know and cannot heal
	At    time.Time     `json:"at"`
	Build *Build        `json:"build"`
}

func (h Health) httpStatus() int {
	if h.hung {
		return http.StatusServiceUnavailable
	}
	return http.StatusOK
}

// Trouble is one thing that is wrong.
type Trouble struct {
	Kind   string     `json:"kind"` // read_only, stuck, poisoned, damaged, unknown or second_copy
	Lock   string     `json:"lock,omitempty"`
	Ino    uint64     `json:"ino,omitempty"` // of a damaged file whose content is there to be salvaged
	Path   string     `json:"path,omitempty"`
	Since  *time.Time `json:"since"` // null: unknown
	What   string     `json:"what"`
	Action string     `json:"action"`
}

// Activity is work that changes the health.
type Activity struct {
	What  string    `json:"what"`
	Lock  string    `json:"lock,omitempty"`
	Path  string    `json:"path,omitempty"`
	Since time.Time `json:"since"`
}

// LockSummary counts the locks listed: domain locks always, inode locks only
// when they are poisoned or stuck.
type LockSummary struct {
	Listed   int `json:"listed"`
	Poisoned int `json:"poisoned"`
	Stuck    int `json:"stuck"`
}

// observation is all that the health is made of.
type observation struct {
	locks    []Lock
	readOnly error
	blind    string         // why the locks cannot be told; "": they can
	damaged  []store.Damage // what is known
	noDamage error          // why it cannot be told whether there is more; errNotHere: the store never tells
	copy     *MetadataCopy
	resets   []Activity
	at       time.Time
}

// damageUnknown is what is wrong when the list of damaged content does not come.
const damageUnknown = "whether content is damaged cannot be told"

func (o *observation) damageUnknown() bool {
	return o.noDamage != nil && !errors.Is(o.noDamage, errNotHere)
}

// watchdogLate is when a watchdog that looks every second has stopped looking.
const watchdogLate = 15 * time.Second

// observe looks at the locks, without taking any of them. It never panics: what
// cannot be read is unknown.
func (a *Server) observe() (o observation) {
	o.at = a.now()
	defer func() {
		if v := recover(); v != nil {
			a.log.Error("health cannot be told", "err", panicError(v))
			o.locks, o.blind = nil, "the locks cannot be read: see the server's log"
		}
	}()
	o.damaged, o.noDamage = a.knownDamage()
	o.copy = a.metadataCopy()
	o.resets = a.resets.list()
	o.readOnly = a.store.ReadOnly()
	stuck := map[string]*poison.Stuck{}
	if a.snapshot != nil {
		s := a.snapshot()
		if seen := cmp.Or(s.WatchedAt, a.started); o.at.Sub(seen) > watchdogLate {
			o.blind = fmt.Sprintf("nothing has looked for stuck locks since %s", clock(seen))
		}
		for _, l := range s.Locks {
			if l.Stuck != nil {
				stuck[l.Name] = l.Stuck
			}
		}
	}
	for _, s := range a.store.Locks() {
		o.locks = append(o.locks, lockOf(s, stuck[s.Name]))
	}
	return o
}

// health looks, and decides on the status.
func (a *Server) health() Health { return a.healthOf(a.observe()) }

func (a *Server) healthOf(o observation) Health {
	h := Health{Status: Online, hung: a.o.Hung(), HealthDetails: &HealthDetails{
		Progress: append([]Activity{}, o.resets...), Troubles: []Trouble{}, Notes: []string{}, At: o.at.UTC(), Build: &a.o.Build, Copy: o.copy,
	}}
	if a.o.Notes != nil {
		h.Notes = append(h.Notes, a.o.Notes()...)
	}
	if o.noDamage == nil {
		n := len(o.damaged)
		h.Damaged = &n
	}
	if o.blind == "" || o.locks != nil {
		h.Locks = &LockSummary{Listed: len(o.locks)}
	}
	for _, l := range o.locks {
		switch l.State {
		case lockPoisoned:
			h.Locks.Poisoned++
		case lockStuck:
			h.Locks.Stuck++
		}
	}
	h.Troubles = append(h.Troubles, troubles(o)...)
	h.Status = statusOf(h.Troubles, len(o.resets) > 0)
	if len(h.Troubles) > 0 {
		h.Problem, h.Action = h.Troubles[0].What, h.Troubles[0].Action
		if others := len(h.Troubles) - 1; others > 0 {
			h.Problem += fmt.Sprintf(" (and %d more)", others)
		}
	}
	return h
}

// severity orders kinds of trouble, the worst first. A store that refuses every
// write is worse than one lock; a stuck lock holds up reads too and cannot be
// reset, so it is worse than a poisoned one; and what is known to be wrong with what
// is served comes before what is not known. A late copy costs nothing yet.
var severity = []struct {
	kind   string
	status Status
}{
	{"read_only", ReadOnly},
	{"stuck", Stuck},
	{"poisoned", Degraded},
	{"damaged", Degraded},
	{"unknown", Unknown},
	{"second_copy", Degraded},
}

func rank(kind string) int {
	for i, s := range severity {
		if s.kind == kind {
			return i
		}
	}
	return len(severity)
}

// statusOf turns the worst trouble into the word for the whole server.
func statusOf(ts []Trouble, rebuilding bool) Status {
	if len(ts) == 0 {
		return Online
	}
	status := severity[rank(ts[0].Kind)].status
	if status == Degraded && rebuilding {
		return Rebuilding
	}
	return status
}

// troubles lists what is wrong, the worst first.
func troubles(o observation) []Trouble {
	var ts []Trouble
	if o.readOnly != nil {
		ts = append(ts, Trouble{
			Kind: "read_only", What: "every write is refused: " + strings.TrimPrefix(o.readOnly.Error(), store.ErrReadOnly.Error()+": "),
			Action: "look at the disk and at the server's log, remove the cause, then restart the server",
		})
	}
	for i := range o.locks {
		if o.locks[i].State == lockPoisoned || o.locks[i].State == lockStuck {
			ts = append(ts, lockTrouble(&o.locks[i]))
		}
	}
	for i, d := range o.damaged {
		if i > 0 && o.damaged[i-1].Ino == d.Ino {
			continue // one trouble for each file: its places are in GET /api/v1/damaged
		}
		ts = append(ts, damageTrouble(d))
	}
	if o.blind != "" {
		ts = append(ts, Trouble{Kind: "unknown", What: o.blind, Action: "look at the server's log; restart the server if this stays"})
	}
	if o.damageUnknown() {
		ts = append(ts, Trouble{Kind: "unknown", What: damageUnknown, Action: "look at the disk and at the server's log; restart the server if this stays"})
	}
	if o.copy != nil && o.copy.Late {
		ts = append(ts, copyTrouble(o.copy))
	}
	slices.SortStableFunc(ts, func(x, y Trouble) int { return cmp.Compare(rank(x.Kind), rank(y.Kind)) })
	return ts
}

// lockTrouble describes a lock that is poisoned or stuck.
func lockTrouble(l *Lock) Trouble {
	name := "lock " + l.Name
	if l.Path != "" {
		name += fmt.Sprintf(" (%s)", l.Path)
	}
	t := Trouble{Kind: l.State, Lock: l.Name, Path: l.Path}
	if l.State == lockStuck {
		t.What = name + " has been held too long by one request"
		t.Action = "wait a moment, it may still return. If it does not, restart the server: nothing else ends it. The server's log names the file that has its stack"
		if l.Stuck != nil {
			t.Since = &l.Stuck.Since
			t.What += fmt.Sprintf(", since %s", clock(l.Stuck.Since))
			if l.Stuck.Op != "" {
				t.What += " (" + l.Stuck.Op + ")"
			}
		}
		return t
	}
	t.What = name + " is poisoned"
	if !l.Since.IsZero() {
		t.Since = &l.Since
		t.What += fmt.Sprintf(" since %s (%s in %s)", clock(l.Since), l.Cause, l.Op)
	}
	t.What += ": its writes are refused, its reads are served"
	if l.Class == poison.FailClosed.String() {
		t.What = t.What[:len(t.What)-len("its writes are refused, its reads are served")] + "all that needs it is refused"
	}
	t.Action = fmt.Sprintf(`POST /api/v1/locks/%s/reset with If-Match: "%d"`, url.PathEscape(l.Name), l.Gen)
	return t
}

// damageTrouble describes a file with damaged content.
func damageTrouble(d store.Damage) Trouble {
	name, since := cmp.Or(d.Path, fmt.Sprintf("inode %d", d.Ino)), d.At.UTC()
	t := Trouble{
		Kind: "damaged", Path: name, Since: &since,
		What:   name + " is damaged: " + damageWords[d.Kind] + "; what is damaged is refused, never served",
		Action: "put the file again from a copy, or restore it from a backup",
	}
	if d.Kind == store.DamagedContent {
		t.Ino = uint64(d.Ino)
	}
	return t
}

// clock writes a time for people, in one zone for all of them.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// resets knows which locks are being rebuilt. Its zero value is ready.
type resets struct {
	// mu protects the field below.
	mu sync.Mutex

	running []Activity
}

// begin notes a reset until the function returned is called.
func (s *resets) begin(lock, path string, now time.Time) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = append(s.running, Activity{What: "rebuilding " + cmp.Or(path, lock), Lock: lock, Path: path, Since: now.UTC()})
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		i := slices.IndexFunc(s.running, func(x Activity) bool { return x.Lock == lock })
		s.running = slices.Delete(slices.Clone(s.running), i, i+1)
	}
}

func (s *resets) list() []Activity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

func (a *Server) healthOperations() []operation {
	op := get("/api/v1/health", "getHealth", "health", "State, problem, action and progress", a.getHealth)
	op.open = a.o.Optional != nil
	op.also = []int{http.StatusServiceUnavailable}
	op.serve = a.withHealthJSON(op.serve)
	return []operation{op}
}

// getHealth answers 200 in every state but one: a degraded server should not
// be restarted or taken out of service, which is all that a prober can do. A
// lock that is held past the hard limit is the exception, answered 503.
func (a *Server) getHealth(_ http.ResponseWriter, r *http.Request) (Health, error) {
	h := a.health()
	if a.private && whoIs(r).name == "" {
		return Health{Status: h.Status, hung: h.hung}, nil
	}
	return h, nil
}

// The states of a lock, as store.LockStatus has them.
const (
	lockHealthy  = "healthy"
	lockPoisoned = "poisoned"
	lockStuck    = "stuck"
)
