package web

import (
	"cmp"
	"net/http"
	"strconv"
	"time"

	"engramfs/store"
)

// Event is one entry of the store's history, as the API shows it.
type Event struct {
	Seq   uint64    `json:"seq"`
	Kind  string    `json:"kind"` // poisoned or reset of a lock, damaged of a file, salvaged of the metadata
	Lock  string    `json:"lock"`
	Path  string    `json:"path,omitempty"`
	Gen   uint64    `json:"gen"`
	At    time.Time `json:"at"`
	Op    string    `json:"op,omitempty"`    // of a poisoning: the operation that did it; of damage: who met it, read or scrub
	Cause string    `json:"cause,omitempty"` // of a poisoning: panic, goexit, invariant or manual; of damage: content, missing or record
	Value string    `json:"value,omitempty"` // the panic value or error as text; of a salvage: why there was one
	// Also names what the same section poisoned besides.
	Also   []Affected `json:"also,omitempty"`
	Source string     `json:"source,omitempty"` // of a reset: who asked for it, admin or auto
	// Stack has one line each; only in the answer for a single event.
	Stack  []string           `json:"stack,omitempty"`
	Report *store.ResetReport `json:"report,omitempty"` // of a reset
}

// Affected is a lock with the path of what it guards, as far as that is known
// at the time of asking.
type Affected struct {
	Lock string `json:"lock"`
	Path string `json:"path,omitempty"`
}

// EventList is the answer of GET /api/v1/events.
type EventList struct {
	Events []Event `json:"events"` // the newest first
	// Next is the value of before for the page after this one; null: there is none.
	Next *uint64 `json:"next"`
}

// The kinds of events, as store.HistoryEntry has them.
const (
	kindPoisoned = "poisoned"
	kindReset    = "reset"
	kindDamaged  = "damaged"
	kindSalvaged = store.SalvageEvent
)

func (a *Server) eventOperations() []operation {
	return []operation{
		get("/api/v1/events", "listEvents", "events", "What happened to the locks, also before the last restart", a.getEvents).with(
			param{in: "query", name: "limit", kind: "integer", doc: "How many, 1 to 1000; 50 without it."},
			param{in: "query", name: "before", kind: "integer", doc: "Only events with a smaller seq: the next of the page before."}),
		get("/api/v1/events/{seq}", "getEvent", "events", "One event, with its stack and report", a.getEvent),
	}
}

func (a *Server) getEvents(_ http.ResponseWriter, r *http.Request) (EventList, error) {
	limit, err := intParam(r, "limit", 50, 1, 1000)
	if err != nil {
		return EventList{}, err
	}
	before, err := intParam(r, "before", 0, 1, 1<<63)
	if err != nil {
		return EventList{}, err
	}
	return a.events(int(limit), before)
}

// events returns the events below before (0: all), at most limit of them.
func (a *Server) events(limit int, before uint64) (EventList, error) {
	h, ok := a.store.(historian)
	if !ok {
		return EventList{}, errNotHere
	}
	entries, err := h.History(before, limit+1) // one more says whether there is another page
	if err != nil {
		return EventList{}, err
	}
	list := EventList{Events: []Event{}}
	for _, e := range entries[:min(len(entries), limit)] {
		list.Events = append(list.Events, eventOf(e))
	}
	if len(entries) > limit {
		list.Next = &entries[limit-1].Seq
	}
	return list, nil
}

func eventOf(e store.HistoryEntry) Event {
	ev := Event{Seq: e.Seq, Kind: e.Kind, Lock: e.Lock, Path: e.Path, Gen: e.Gen, At: e.At.UTC(), Source: string(e.Source), Report: e.Report}
	if e.Kind == kindSalvaged {
		ev.Value, ev.Path = e.Path, ""
	}
	if d := e.Damage; d != nil {
		ev.Op, ev.Cause, ev.Value = string(d.Source), string(d.Kind), d.Err
	}
	if p := e.Event; p != nil {
		ev.Op, ev.Cause, ev.Value = p.Op, p.Cause.String(), p.Value
		for _, lock := range p.Also {
			ev.Also = append(ev.Also, Affected{Lock: lock})
		}
	}
	return ev
}

func (a *Server) getEvent(_ http.ResponseWriter, r *http.Request) (Event, error) {
	text, err := pathParam(r, "seq")
	if err != nil {
		return Event{}, err
	}
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return Event{}, badRequest("event %s: want its number", text)
	}
	return a.event(seq)
}

func (a *Server) event(seq uint64) (Event, error) {
	h, ok := a.store.(historian)
	if !ok {
		return Event{}, errNotHere
	}
	entries, err := h.History(seq+1, 1)
	if err != nil {
		return Event{}, err
	}
	if len(entries) == 0 || entries[0].Seq != seq {
		return Event{}, errNoEvent
	}
	ev := eventOf(entries[0])
	if p := entries[0].Event; p != nil {
		ev.Stack = stackLines(p.Stack)
	}
	for k := range ev.Also {
		if s, err := a.store.LockStatus(ev.Also[k].Lock); err == nil {
			ev.Also[k].Path = cmp.Or(ev.Also[k].Path, s.Path)
		}
	}
	return ev, nil
}
