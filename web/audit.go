package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"crypto/rand"
	"encoding/hex"
)

// Audit is the append-only log of what administrators did: a file of JSON
// lines. A line is on the disk before the action begins, and another after it
// has ended, with the same id. All methods may be called at the same time.
type Audit struct {
	// mu protects the fields below.
	mu sync.Mutex

	file   *os.File
	broken error // a failed write or sync: what is on the disk is not known
}

// AuditLine is one line of the audit log. Result is "begun" in the line before
// the action, and then "done" or the code of the error.
type AuditLine struct {
	ID     string         `json:"id"`
	At     time.Time      `json:"at"`
	Actor  string         `json:"actor"` // "": anonymous
	Via    string         `json:"via"`   // password, token, session, open or server
	Remote string         `json:"remote"`
	Action string         `json:"action"`
	Target string         `json:"target,omitempty"`
	Reason string         `json:"reason,omitempty"`
	Facts  map[string]any `json:"facts,omitempty"`
	Result string         `json:"result"`
}

// auditBegun is the Result of an action that has not ended, or whose server has
// not lived to say how.
const auditBegun = "begun"

// OpenAudit opens the audit log at path, and makes it with mode 0600 if it does
// not exist. A last line that a crash cut off is ended, so that it spoils no other.
func OpenAudit(path string) (*Audit, error) {
	_, statErr := os.Stat(path)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if errors.Is(statErr, os.ErrNotExist) {
		err = syncDir(filepath.Dir(path))
	}
	if err == nil {
		err = endLastLine(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("audit log: %w", err), f.Close())
	}
	return &Audit{file: f}, nil
}

func endLastLine(f *os.File) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, size-1); err != nil || last[0] == '\n' {
		return err
	}
	if _, err := f.Write([]byte{'\n'}); err != nil {
		return err
	}
	return f.Sync()
}

// syncDir makes the entry of a new file durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close closes the file.
func (l *Audit) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = errors.Join(l.broken, os.ErrClosed)
	return l.file.Close()
}

// append returns nil once the line is on the disk. After a failure it takes no
// more lines: a failed sync is not to be believed when it is tried again.
func (l *Audit) append(line AuditLine) error {
	b, err := json.Marshal(line)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return l.broken
	}
	if _, err = l.file.Write(append(b, '\n')); err == nil {
		err = l.file.Sync()
	}
	l.broken = err
	return err
}

// auditTail is how much of the log's end is read to show it, in bytes.
const auditTail = 1 << 20

// last returns the newest actions, at most n, the newest first. An action has the
// result of its last line. What is no line of the log is passed by.
func (l *Audit) last(n int) ([]AuditLine, error) {
	l.mu.Lock()
	info, err := l.file.Stat()
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	from := max(info.Size()-auditTail, 0)
	text := make([]byte, info.Size()-from)
	if _, err := l.file.ReadAt(text, from); err != nil {
		return nil, err
	}
	if from > 0 { // the first line may be cut
		_, text, _ = bytes.Cut(text, []byte{'\n'})
	}
	ended := map[string]bool{}
	lines := []AuditLine{}
	for _, raw := range slices.Backward(bytes.Split(text, []byte{'\n'})) {
		var line AuditLine
		if json.Unmarshal(raw, &line) != nil || line.Result == auditBegun && ended[line.ID] {
			continue
		}
		ended[line.ID] = true
		if lines = append(lines, line); len(lines) == n {
			break
		}
	}
	return lines, nil
}

// action is something that an administrator does.
type action struct {
	name   string // such as lock.reset
	target string
	reason string
	facts  map[string]any // what happened; fn may add to them
}

// maxReason bounds the reason that is kept, in bytes.
const maxReason = 1000

// do runs fn between two lines of the audit log. If the first cannot be written,
// fn does not run.
func (a *Server) do(r *http.Request, act action, fn func(*action) error) error {
	if len(act.reason) > maxReason {
		return badRequest("the reason is longer than %d bytes", maxReason)
	}
	if act.facts == nil {
		act.facts = map[string]any{}
	}
	who := whoIs(r)
	line := AuditLine{
		ID: newID(), At: a.now().UTC(), Actor: who.name, Via: who.via, Remote: r.RemoteAddr,
		Action: act.name, Target: act.target, Reason: act.reason, Facts: act.facts, Result: auditBegun,
	}
	if err := a.record(line); err != nil {
		return err
	}
	finished := false
	defer func() { // also if fn panics: its handler answers, and this line says so
		if !finished {
			line.Result, line.At = "panicked", a.now().UTC()
			_ = a.record(line) // logged there
		}
	}()
	err := fn(&act)
	finished = true
	line.At, line.Result = a.now().UTC(), "done"
	if err != nil {
		line.Result = problemOf(err).Code
	}
	log := a.log.With("action", act.name, "target", act.target, "result", line.Result, "facts", act.facts,
		"user", who.name, "via", who.via, "remote", r.RemoteAddr, "id", line.ID)
	if err != nil {
		log.Warn("admin action failed", "err", err)
	} else {
		log.Info("admin action")
	}
	_ = a.record(line) // the action is done: the failure is logged, and the next one is refused
	return err
}

func (a *Server) record(line AuditLine) error {
	if a.audit == nil {
		return nil
	}
	if err := a.audit.append(line); err != nil {
		a.log.Error("audit log cannot be written", "action", line.Action, "target", line.Target, "result", line.Result, "err", err)
		return errAudit
	}
	return nil
}

func newID() string {
	b := make([]byte, 8)
	rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

// AuditList is the answer of GET /api/v1/audit.
type AuditList struct {
	Actions []AuditLine `json:"actions"` // the newest first
}

func (a *Server) auditOperations() []operation {
	limit := param{in: "query", name: "limit", kind: "integer", doc: "How many, 1 to 1000; 100 without it."}
	return []operation{
		get("/api/v1/audit", "listAudit", "audit", "What administrators did, and how it ended", a.getAudit).with(limit),
	}
}

func (a *Server) getAudit(_ http.ResponseWriter, r *http.Request) (AuditList, error) {
	if a.audit == nil {
		return AuditList{}, errNotHere
	}
	limit, err := intParam(r, "limit", 100, 1, 1000)
	if err != nil {
		return AuditList{}, err
	}
	lines, err := a.audit.last(int(limit))
	return AuditList{lines}, err
}
