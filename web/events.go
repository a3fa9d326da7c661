package web

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"time"

	"engramfs/store"
)

// Event is one entry of the store's history, as the API shows it.
type Event struct {
	Seq   uint64    `json:"seq"`
	Kind  string    `json:"kind"` // poisoned, reset, or damaged of a file
	Lock  string    `json:"lock"`
	Path  string    `json:"path,omitempty"`
	Gen   uint64    `json:"gen"`
	At    time.Time `json:"at"`
	Op    string    `json:"op,omitempty"`    // of a poisoning: the operation that did it
	Cause string    `json:"cause,omitempty"` // of a poisoning: panic, goexit, invariant or manual
	Value string    `json:"value,omitempty"` // of a poisoning: the panic value or error as text
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

// maxHistory is more events than a store keeps.
const maxHistory = 10_000

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
	list := EventList{Events: []Event{}}
	// One more than asked for says whether there is another page.
	ask := limit + 1
	if before > 0 {
		newest, err := h.History(1)
		if err != nil || len(newest) == 0 {
			return list, err
		}
		// Sequence numbers have no gaps.
		ask = int(min(newest[0].Seq-min(newest[0].Seq, before), maxHistory)) + limit + 2
	}
	entries, err := h.History(ask)
	if err != nil {
		return EventList{}, err
	}
	for _, e := range entries {
		if before > 0 && e.Seq >= before {
			continue
		}
		if len(list.Events) == limit {
			next := list.Events[limit-1].Seq
			list.Next = &next
			break
		}
		list.Events = append(list.Events, eventOf(e))
	}
	return list, nil
}

func eventOf(e store.HistoryEntry) Event {
	ev := Event{Seq: e.Seq, Kind: e.Kind, Lock: e.Lock, Path: e.Path, Gen: e.Gen, At: e.At.UTC(), Source: string(e.Source), Report: e.Report}
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
	newest, err := h.History(1)
	if err != nil {
		return Event{}, err
	}
	if len(newest) == 0 || seq > newest[0].Seq {
		return Event{}, errNoEvent
	}
	entries, err := h.History(int(min(newest[0].Seq-seq, maxHistory)) + 2)
	if err != nil {
		return Event{}, err
	}
	i := slices.IndexFunc(entries, func(e store.HistoryEntry) bool { return e.Seq == seq })
	if i < 0 {
		return Event{}, errNoEvent
	}
	ev := eventOf(entries[i])
	if p := entries[i].Event; p != nil {
		ev.Stack = stackLines(p.Stack)
	}
	for k := range ev.Also {
		if s, err := a.store.LockStatus(ev.Also[k].Lock); err == nil {
			ev.Also[k].Path = cmp.Or(ev.Also[k].Path, s.Path)
		}
	}
	return ev, nil
}
