package web

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"

	"engramfs/store"
)

// scrubber is what a store has that can be scrubbed.
type scrubber interface {
	Scrub(ctx context.Context, by string) (store.ScrubRun, error)
	StopScrub() bool
	ScrubStatus() store.ScrubStatus
}

// salvager is a store that gives damaged content away, to whom asks for just that.
type salvager interface {
	OpenRaw(ctx context.Context, ino store.Ino) (*store.RawContent, error)
}

var _ interface {
	scrubber
	salvager
} = (*store.Store)(nil)

// scrubSpec makes a job of the store's scrub. It also starts by itself, so the
// store knows better than this process's list of jobs what runs and what ran.
func (a *Server) scrubSpec(s scrubber) JobSpec {
	return JobSpec{
		Name: "scrub", Title: "Scrub", Unit: "bytes",
		Doc: "Reads all content against its checksums, and every record. Changes nothing; leaves the disk to others, and goes on after a stop or a restart.",
		Run: func(ctx context.Context, _ func(done, total int64)) ([]string, error) {
			run, err := s.Scrub(ctx, startedBy(ctx))
			return run.Problems, err
		},
		State: func() (running, last *Run, next *Next) {
			st, _ := a.askScrub(s, a.probes.scrub.askOrLast) // nothing is known before the first answer
			if st.Running != nil {
				running = runOf(st.Running)
			}
			if len(st.Runs) > 0 {
				last = runOf(&st.Runs[0])
			}
			if st.Next != nil {
				next = &Next{At: st.Next.UTC()}
			}
			return running, last, next
		},
		Stop: func() (bool, error) {
			return a.probes.stopScrub.ask(func() (bool, error) { return s.StopScrub(), nil })
		},
	}
}

// askScrub asks what is known about scrubs in one of the ways of a probe.
func (a *Server) askScrub(s scrubber, ask func(func() (store.ScrubStatus, error)) (store.ScrubStatus, error)) (store.ScrubStatus, error) {
	return ask(func() (store.ScrubStatus, error) { return s.ScrubStatus(), nil })
}

// runOf shows a scrub as the run of a job.
func runOf(r *store.ScrubRun) *Run {
	run := &Run{
		By: r.By, Started: r.Started, Ended: r.Ended, Error: r.Err, Unit: "bytes",
		Done: &r.Done, Total: &r.Total, Rate: r.Rate, TimeLeft: r.TimeLeft, Problems: append([]string{}, r.Problems...),
	}
	if r.Ended == nil {
		return run
	}
	result, found := r.Result, int(r.Found())
	if result == "damaged" {
		result = "problems"
	}
	run.Result = &result
	if r.Result == "clean" || r.Result == "damaged" {
		run.Found = &found
	}
	return run
}

// SalvageRequest is the body of a salvage. It may be left out.
type SalvageRequest struct {
	Reason string `json:"reason,omitempty"` // for the audit log
}

func (a *Server) scrubOperations() []operation {
	return []operation{
		get("/api/v1/scrub", "getScrub", "files", "Scrubs: what runs, how the last ones ended, when the next one begins", a.getScrub),
		a.salvageOperation(),
	}
}

func (a *Server) getScrub(http.ResponseWriter, *http.Request) (store.ScrubStatus, error) {
	s, ok := a.store.(scrubber)
	if !ok {
		return store.ScrubStatus{}, errNotHere
	}
	st, err := a.askScrub(s, a.probes.scrub.ask)
	st.Runs = append([]store.ScrubRun{}, st.Runs...)
	return st, err
}

// salvageOperation is a POST, although it changes nothing: it hands out what the
// doors refuse, and is an action in the audit log.
func (a *Server) salvageOperation() operation {
	op := postOptional("/api/v1/damaged/{ino}/salvage", "salvageFile", "files",
		"Download a file as it is stored, with its damage; "+badRangesHeader+" names the bytes that are wrong",
		func(http.ResponseWriter, *http.Request, SalvageRequest) (none, error) { return none{}, nil })
	op.media = "application/octet-stream"
	op.serve = func(w http.ResponseWriter, r *http.Request) error {
		var in SalvageRequest
		if err := readJSON(w, r, &in); err != nil && !errors.Is(err, errNoBody) {
			return err
		}
		return a.salvage(w, r, in.Reason)
	}
	return op
}

// inoParam returns the number of an inode in the path.
func inoParam(r *http.Request) (store.Ino, error) {
	text, err := pathParam(r, "ino")
	if err != nil {
		return 0, err
	}
	ino, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, badRequest("inode %s: want its number", text)
	}
	return store.Ino(ino), nil
}

// badRangesHeader lists what is damaged in the form of a Range header (RFC 9110
// section 14.1.2), at most maxBadRanges of it, and then an ellipsis.
const (
	badRangesHeader = "Engramfs-Bad-Ranges"
	maxBadRanges    = 100
)

func (a *Server) salvage(w http.ResponseWriter, r *http.Request, reason string) error {
	ino, err := inoParam(r)
	if err != nil {
		return err
	}
	s, ok := a.store.(salvager)
	if !ok {
		return errNotHere
	}
	name := a.damagedPath(ino)
	act := action{name: "file.salvage", target: fmt.Sprintf("inode %d", ino), reason: reason, facts: map[string]any{"path": name}}
	begun := false
	err = a.do(r, act, func(act *action) error {
		v, err := s.OpenRaw(r.Context(), ino)
		if err != nil {
			return err
		}
		defer v.Close() // it was only read
		act.facts["bad_ranges"] = len(v.Bad())
		h := w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Content-Length", strconv.FormatInt(v.Size(), 10))
		h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": salvageName(name, ino)}))
		h.Set(badRangesHeader, rangesText(v.Bad()))
		begun = true
		_, err = v.WriteTo(w)
		return err
	})
	if err != nil && begun {
		if r.Context().Err() == nil { // else it is the client who has gone
			a.noteFailure(r, http.StatusInternalServerError, err)
		}
		panic(http.ErrAbortHandler) // the client sees that it is cut off
	}
	return err
}

// damagedPath returns where a file is that is known to be damaged; "": nowhere.
func (a *Server) damagedPath(ino store.Ino) string {
	list, _ := a.damaged() // without it the download has the inode's number for a name
	for _, d := range list {
		if d.Ino == ino {
			return d.Path
		}
	}
	return ""
}

func salvageName(file string, ino store.Ino) string {
	if file == "" {
		return fmt.Sprintf("inode-%d.salvaged", ino)
	}
	return path.Base(file) + ".salvaged"
}

func rangesText(bad []store.Range) string {
	if len(bad) == 0 {
		return "none"
	}
	var b strings.Builder
	for i, r := range bad {
		if i == maxBadRanges {
			b.WriteString(", ...")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d-%d", r.Offset, r.Offset+r.Length-1)
	}
	return "bytes=" + b.String()
}
