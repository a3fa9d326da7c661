package web

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"engramfs/store"
	"engramfs/store/poison"
)

// lockPage is the page of one lock.
type lockPage struct {
	frame
	Lock             Lock
	Name, Tone, Icon string
	What, Guards     string
	CanReset         bool
}

func (a *Server) pageLock(w http.ResponseWriter, r *http.Request) error {
	name, err := pathParam(r, "name")
	if err != nil {
		return err
	}
	l, err := a.lock(name)
	if err != nil {
		return err
	}
	p := lockPage{
		frame: a.frame(r, "Lock "+name, ""), Lock: l, Name: cmp.Or(l.Path, l.Name), Tone: lockTone(l.State), Icon: lockTone(l.State),
		What: "It is healthy.", Guards: guards(name), CanReset: l.State == lockPoisoned,
	}
	if l.State != lockHealthy {
		p.What = sentence(lockTrouble(&l).What)
	}
	if l.State == lockStuck {
		p.What += " " + sentence(lockTrouble(&l).Action)
	}
	return a.render(w, http.StatusOK, "lock", p)
}

// reportPage is what a reset did, or would do.
type reportPage struct {
	frame
	Heading, Text, Icon string
	Name, Target        string
	Gen                 uint64
	Report              *store.ResetReport
	CanReset            bool
}

// pagePreview shows what a reset would do, and asks whether to do it.
func (a *Server) pagePreview(w http.ResponseWriter, r *http.Request) error {
	return a.pageReport(w, r, true)
}

// pageReset resets the lock in the generation that the page before has shown.
func (a *Server) pageReset(w http.ResponseWriter, r *http.Request) error {
	return a.pageReport(w, r, false)
}

func (a *Server) pageReport(w http.ResponseWriter, r *http.Request, dryRun bool) error {
	name, err := pathParam(r, "name")
	if err != nil {
		return err
	}
	gen, err := strconv.ParseUint(r.PostFormValue("gen"), 10, 64)
	if err != nil {
		return badRequest("the form says no generation: go back and try again")
	}
	report, err := a.reset(r, name, gen, dryRun, r.PostFormValue("reason"))
	p := reportPage{Name: name, Gen: gen, Report: report, Target: name}
	if report != nil {
		p.Target = cmp.Or(report.Path, name)
	}
	if err != nil {
		// Only a rebuild that was tried has a report worth a page.
		if reportOf(err) == nil || len(report.Problems) == 0 && !errors.Is(err, poison.ErrPoisoned) {
			return err
		}
		p.Heading, p.Icon = p.Target+" cannot be reset", "warn"
		p.Text = "The rebuild found problems, so the lock stays poisoned. Nothing was changed."
		p.frame = a.frame(r, p.Heading, "")
		return a.render(w, http.StatusConflict, "report", p)
	}
	p.Heading, p.Icon = p.Target+" is healthy again", "ok"
	p.Text = "The lock was rebuilt from the disk, checked and cleared. Changes are accepted again."
	if dryRun {
		p.Heading, p.Icon, p.CanReset = "What a reset of "+p.Target+" would do", "work", true
		p.Text = "This was a dry run: nothing was changed. The rebuild works, and what it made passes its checks."
	}
	p.frame = a.frame(r, p.Heading, "")
	return a.render(w, http.StatusOK, "report", p)
}

func (a *Server) pageJob(w http.ResponseWriter, r *http.Request) error {
	verb, err := pathParam(r, "verb")
	if err != nil {
		return err
	}
	do := map[string]func(http.ResponseWriter, *http.Request, none) (Job, error){"start": a.postStart, "stop": a.postStop}[verb]
	if do == nil {
		return errNoRoute
	}
	if _, err := do(w, r, none{}); err != nil {
		return err
	}
	return redirect(w, r, "/#jobs")
}

func (a *Server) pageDrill(w http.ResponseWriter, r *http.Request) error {
	d := Drill{Path: r.PostFormValue("path"), Point: r.PostFormValue("point"), Cause: r.PostFormValue("cause")}
	if err := a.arm(r, d); err != nil {
		return err
	}
	p := reportPage{
		frame: a.frame(r, "Drill armed", ""), Heading: "Drill armed", Icon: "work",
		Text: fmt.Sprintf("The next change of %s fails on purpose (%s).", d.Path, d.Cause),
	}
	return a.render(w, http.StatusOK, "report", p)
}

// confirmPage asks before something that cannot be taken back.
type confirmPage struct {
	frame
	Heading, Text, Action, Button string
	List                          []string
}

// pageBreak takes a WebDAV lock from its client, at the second time of asking.
func (a *Server) pageBreak(w http.ResponseWriter, r *http.Request) error {
	id, err := pathParam(r, "id")
	if err != nil {
		return err
	}
	if r.PostFormValue("confirmed") == "1" {
		if _, err := a.breakDAVLock(r, id, r.PostFormValue("reason")); err != nil {
			return err
		}
		return redirect(w, r, "/#davlocks")
	}
	locks, err := a.davLocks()
	if err != nil {
		return err
	}
	for _, l := range locks {
		if davLockID(l.Token) == id {
			return a.render(w, http.StatusOK, "confirm", confirmPage{
				frame: a.frame(r, "Break a lock", ""), Heading: "Break the lock on " + l.Path + "?",
				Text:   "The client that holds it may be editing the file. Others can change it from then on.",
				Action: "/davlocks/" + id + "/break", Button: "Break the lock",
			})
		}
	}
	return store.ErrNoLock
}

// shownPlaces bounds the damaged places that the question about a salvage lists.
const shownPlaces = 20

// pageSalvage hands a damaged file out as it is stored, at the second time of asking.
func (a *Server) pageSalvage(w http.ResponseWriter, r *http.Request) error {
	if r.PostFormValue("confirmed") == "1" {
		return a.salvage(w, r, r.PostFormValue("reason"))
	}
	ino, err := inoParam(r)
	if err != nil {
		return err
	}
	all, err := a.damaged()
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(d store.Damage) bool { return d.Ino != ino })
	if len(all) == 0 {
		return errSound
	}
	name := cmp.Or(all[0].Path, fmt.Sprintf("inode %d", ino))
	p := confirmPage{
		frame: a.frame(r, "Download a damaged file", ""), Heading: "Download " + name + " with its damage?",
		Text:   "Some of its bytes are wrong, and the download has them as they are. Use it only where there is no copy.",
		Action: fmt.Sprintf("/damaged/%d/salvage", ino), Button: "Download it as it is",
	}
	for _, d := range all[:min(len(all), shownPlaces)] {
		p.List = append(p.List, fmt.Sprintf("bytes %s to %s: %s", number(d.Offset), number(d.Offset+d.Length-1), d.Err))
	}
	if more := len(all) - len(p.List); more > 0 {
		p.List = append(p.List, plural(int64(more), "more place"))
	}
	return a.render(w, http.StatusOK, "confirm", p)
}

// eventsPage is a page of the history.
type eventsPage struct {
	frame
	Events []Event
	Next   uint64 // 0: there is no page after this one
	Paged  bool
}

func (a *Server) pageEvents(w http.ResponseWriter, r *http.Request) error {
	before, err := intParam(r, "before", 0, 1, 1<<63)
	if err != nil {
		return err
	}
	list, err := a.events(50, before)
	if err != nil {
		return err
	}
	p := eventsPage{frame: a.frame(r, "Events", "events"), Events: list.Events, Paged: before > 0}
	if list.Next != nil {
		p.Next = *list.Next
	}
	return a.render(w, http.StatusOK, "events", p)
}

// eventPage is the page of one event.
type eventPage struct {
	frame
	Event Event
}

func (a *Server) pageEvent(w http.ResponseWriter, r *http.Request) error {
	ev, err := a.getEvent(w, r)
	if err != nil {
		return err
	}
	return a.render(w, http.StatusOK, "event", eventPage{a.frame(r, "Event", "events"), ev})
}
