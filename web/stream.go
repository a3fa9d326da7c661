package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"time"
)

const (
	streamLook = 250 * time.Millisecond // between two looks at what a stream tells of
	streamBeat = 15 * time.Second       // of silence, after which a stream says that it lives
)

func (a *Server) streamOperations() []operation {
	return []operation{{
		method: http.MethodGet, path: "/api/v1/stream", id: "stream", tag: "health",
		summary: "Server-sent events: health, job and event when they change, sample when there is a new one",
		out:     reflect.TypeFor[string](), media: "text/event-stream", serve: a.getStream,
	}}
}

// getStream tells of changes until the client goes, its session ends or the
// server stops. A client that comes back with Last-Event-ID is told of the events
// that it has missed.
func (a *Server) getStream(w http.ResponseWriter, r *http.Request) error {
	select {
	case a.streams <- struct{}{}:
		defer func() { <-a.streams }()
	default:
		return errStreams
	}
	s := stream{a: a, w: w, rc: http.NewResponseController(w), jobs: map[string][]byte{}}
	if seq, err := strconv.ParseUint(r.Header.Get("Last-Event-ID"), 10, 64); err == nil {
		s.seq, s.begun = seq, true
	}
	w.Header().Set("Content-Type", "text/event-stream")
	look := time.NewTicker(streamLook)
	defer look.Stop()
	for who := whoIs(r); ; {
		if who.via == "session" && !a.sessions.live(who.key) {
			return nil
		}
		if s.tell() != nil {
			return nil // the client has gone
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-a.ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

// stream is what one client has been told.
type stream struct {
	a  *Server
	w  io.Writer
	rc *http.ResponseController

	health []byte
	jobs   map[string][]byte
	seq    uint64 // of the last event told, or that there was when the stream began
	begun  bool
	sample time.Time
	beat   time.Time
	out    bytes.Buffer
}

// tell sends what has changed since it was called the last time.
func (s *stream) tell() error {
	s.tellEvents()
	h := s.a.health()
	at := h.At
	s.change("health", &s.health, h, healthWithoutTime(h))
	for _, j := range s.a.jobs.list() {
		told := s.jobs[j.Name]
		s.change("job", &told, j, j)
		s.jobs[j.Name] = told
	}
	if t := s.a.samples.newest(); !t.Equal(s.sample) {
		s.sample = t
		fmt.Fprintf(&s.out, "event: sample\ndata: {\"at\": %q}\n\n", t.UTC().Format(time.RFC3339Nano))
	}
	if s.out.Len() == 0 && at.Sub(s.beat) >= streamBeat {
		s.out.WriteString(": alive\n\n")
	}
	if s.out.Len() == 0 {
		return nil
	}
	s.beat = at
	_, err := s.out.WriteTo(s.w)
	if err == nil {
		err = s.rc.Flush()
	}
	return err
}

// healthWithoutTime is what of a health makes it another one.
func healthWithoutTime(h Health) Health {
	details := *h.HealthDetails
	details.At, details.Copy = time.Time{}, details.Copy.withoutTime()
	h.HealthDetails = &details
	return h
}

// change adds v if its essence is not what was told.
func (s *stream) change(event string, told *[]byte, v, essence any) {
	key, err := json.Marshal(essence)
	if err != nil || bytes.Equal(key, *told) {
		return
	}
	*told = key
	b, _ := json.Marshal(v) // cannot fail: its essence has not
	fmt.Fprintf(&s.out, "event: %s\ndata: %s\n\n", event, b)
}

// tellEvents adds the events of the history after the last one told. A stream
// that begins tells of none: its client has just read the list.
func (s *stream) tellEvents() {
	newest, err := s.a.events(1, 0)
	if err != nil {
		return
	}
	last := uint64(0)
	if len(newest.Events) > 0 {
		last = newest.Events[0].Seq
	}
	if !s.begun {
		fmt.Fprintf(&s.out, "id: %d\n\n", last)
		s.seq, s.begun = last, true
	}
	if last == s.seq {
		return
	}
	list, err := s.a.events(int(min(last-min(s.seq, last), 100)), 0)
	if err != nil {
		return
	}
	for i := len(list.Events) - 1; i >= 0; i-- {
		if e := list.Events[i]; e.Seq > s.seq {
			b, _ := json.Marshal(e) // cannot fail: it has been JSON before
			fmt.Fprintf(&s.out, "id: %d\nevent: event\ndata: %s\n\n", e.Seq, b)
		}
	}
	s.seq = last
}
