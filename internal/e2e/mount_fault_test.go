package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"engramfs/store"
)

// TestFaultsThroughTheMount lets every fault point strike for every cause: the
// caller gets an error and is not kept waiting, the mount and the files beside
// live on, what is poisoned is read, and a reset brings it back.
func TestFaultsThroughTheMount(t *testing.T) {
	for _, integrity := range []string{"fast", "strict"} {
		for _, cause := range []string{"panic", "goexit", "error"} {
			t.Run(integrity+"/"+cause, func(t *testing.T) { strikeEverywhere(t, integrity, cause) })
		}
	}
}

func strikeEverywhere(t *testing.T, integrity, cause string) {
	m := StartMounted(t, Options{Binary: engramfs, Args: []string{"--enable-drills", "--mount-integrity", integrity}})
	f := &faultDrill{t: t, m: m, d: connect(t, m.Server), admin: NewDAV(m.Admin, "", time.Minute), cause: cause}
	t.Cleanup(f.admin.Close)
	n := 0
	for i, p := range store.FaultPoints() {
		if integrity == "fast" && p.Name == "write:content" {
			continue // the kernel writes the content itself
		}
		end := m.Watch(time.Minute)
		t.Run(p.Name, func(t *testing.T) { f.t = t; f.strike(p, fmt.Sprintf("p%d", i)) })
		end()
		n++
	}
	m.Stop()
	mustBeClean(t, m.Server)
	t.Logf("faults through the mount: integrity %s, cause %s, %d points: 0 requests stuck, check clean", integrity, cause, n)
}

// faultDrill lets fault points strike on one server.
type faultDrill struct {
	t     *testing.T
	m     *Mounted
	d     *DAV
	admin *DAV
	cause string

	dir        string // of this point: victim, sibling and tree are in it
	old, fresh []byte
}

// attempt is a way to reach fault points.
type attempt struct {
	name string
	// mount says that it goes through the mount, and so ends with an errno.
	mount bool
	do    func(*faultDrill) error
}

// attempts are tried one after the other until the drill has struck.
var attempts = []attempt{
	{"pwrite", true, (*faultDrill).pwrite},
	{"create", true, (*faultDrill).create},
	{"rename", true, (*faultDrill).rename},
	{"chmod", true, func(f *faultDrill) error { return os.Chmod(f.path("victim"), 0o640) }},
	{"flock", true, (*faultDrill).flock},
	{"PUT", false, func(f *faultDrill) error { return f.request("PUT", "victim", nil, f.fresh) }},
	{"COPY", false, func(f *faultDrill) error { return f.copyTree() }},
	{"LOCK", false, (*faultDrill).lock},
}

// onlyWebDAV are the points that no system call leads to.
var onlyWebDAV = []string{"upload:", "clone:", "davlock:"}

func (f *faultDrill) path(name string) string { return f.m.Path(f.dir, name) }

// strike arms a point, reaches it, and follows what the server promises.
func (f *faultDrill) strike(p store.FaultPoint, dir string) {
	f.prepare(dir)
	f.arm(p.Name)
	by, err := f.reach()
	poisoned := f.poisoned()
	// A domain that dies once the change is made is poisoned, and the change stands.
	if err == nil && !(p.Domain && p.Late && len(poisoned) > 0) {
		f.t.Fatalf("nothing reaches the point")
	}
	webdav := false
	for _, prefix := range onlyWebDAV {
		webdav = webdav || strings.HasPrefix(p.Name, prefix)
	}
	if by.mount == webdav {
		f.t.Errorf("%s reached it; through the mount only: %v", by.name, !webdav)
	}
	if by.mount && err != nil && !isErrno(err, syscall.EIO) {
		f.t.Errorf("%s = %s, want EIO", by.name, describeErrno(err))
	}
	f.checkReads()
	f.checkSiblings(poisoned)
	f.checkRefused(poisoned)
	for _, l := range poisoned {
		must(f.t, f.admin, "POST", "/api/v1/locks/"+l.Name+"/reset", []string{fmt.Sprintf(`If-Match: "%d"`, l.Gen)}, nil, 200)
	}
	f.checkHealed(p)
	if wanted := p.Locked && (f.cause != "error" || p.Late); wanted != (len(poisoned) > 0) {
		f.t.Errorf("poisoned: %+v, want any: %v", poisoned, wanted)
	}
}

// prepare makes the folder of a point.
func (f *faultDrill) prepare(dir string) {
	f.t.Helper()
	f.dir, f.old, f.fresh = dir, Content(1, 100_000), Content(2, 100_000)
	for _, sub := range []string{"", "tree", "elsewhere"} {
		if err := os.Mkdir(f.path(sub), 0o700); err != nil {
			f.t.Fatal(err)
		}
	}
	for _, name := range []string{"victim", "sibling", "tree/leaf"} {
		if err := os.WriteFile(f.path(name), f.old, 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
}

// arm arms the point for the file, its folder and the tree, whichever the
// attempts come by first.
func (f *faultDrill) arm(point string) {
	f.t.Helper()
	path := "/" + f.dir + "/victim"
	switch {
	case strings.HasPrefix(point, "clone:"):
		path = "/" + f.dir + "/tree"
	case strings.HasPrefix(point, "alloc:"), strings.HasPrefix(point, "usage:"), strings.HasPrefix(point, "davlock:"):
		path = "/" + f.dir
	}
	body, _ := json.Marshal(map[string]string{"path": path, "point": point, "cause": f.cause}) // cannot fail: strings
	must(f.t, f.admin, "POST", "/api/v1/drills", []string{"Content-Type: application/json"}, body, 200, 201, 202, 204)
}

// reach tries until something fails or is poisoned.
func (f *faultDrill) reach() (attempt, error) {
	for _, a := range attempts {
		if err := a.do(f); err != nil || len(f.poisoned()) > 0 {
			return a, err
		}
	}
	return attempt{}, nil
}

func (f *faultDrill) pwrite() error {
	file, err := os.OpenFile(f.path("victim"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteAt(f.fresh, 0); err != nil {
		return err
	}
	return file.Sync()
}

func (f *faultDrill) create() error {
	file, err := os.OpenFile(f.path("new"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Remove(f.path("new"))
}

func (f *faultDrill) rename() error {
	if err := os.Rename(f.path("victim"), f.path("moved")); err != nil {
		return err
	}
	return os.Rename(f.path("moved"), f.path("victim"))
}

func (f *faultDrill) flock() error {
	file, err := os.Open(f.path("victim"))
	if err != nil {
		return err
	}
	defer file.Close()
	return syscall.Flock(int(file.Fd()), syscall.LOCK_SH)
}

// request sends a request for a file of the folder. An answer that is not a
// success, and none at all, are errors.
func (f *faultDrill) request(method, name string, header []string, body []byte) error {
	r, _, err := f.d.Do(method, "/"+f.dir+"/"+name, header, body)
	if err == nil && !r.OK() {
		err = fmt.Errorf("status %d", r.Status)
	}
	return err
}

func (f *faultDrill) copyTree() error {
	r, err := f.d.Transfer("COPY", "/"+f.dir+"/tree", "/"+f.dir+"/copy")
	if err == nil && !r.OK() {
		err = fmt.Errorf("status %d", r.Status)
	}
	return err
}

func (f *faultDrill) lock() error {
	return f.request("LOCK", "sibling", []string{"Content-Type: application/xml", "Timeout: Second-1"}, []byte(
		`<?xml version="1.0"?><D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>`))
}

// poisoned returns the poisoned locks.
func (f *faultDrill) poisoned() (found []lockInfo) {
	f.t.Helper()
	text := must(f.t, f.admin, "GET", "/api/v1/locks", nil, nil, 200)
	var list struct {
		Locks []lockInfo `json:"locks"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		f.t.Fatalf("GET /api/v1/locks: %v\n%s", err, text)
	}
	for _, l := range list.Locks {
		if l.State == "poisoned" {
			found = append(found, l)
		}
	}
	return found
}

// checkReads reads the file, under the name that it may have been given: it is
// the old one, or the new one if the change had been made when the fault struck.
func (f *faultDrill) checkReads() {
	f.t.Helper()
	b, err := os.ReadFile(f.path("victim"))
	if os.IsNotExist(err) {
		b, err = os.ReadFile(f.path("moved"))
	}
	if err != nil || !bytes.Equal(b, f.old) && !bytes.Equal(b, f.fresh) {
		f.t.Errorf("after the fault the file reads as %d bytes, %v, want the old or the new content", len(b), err)
	}
	if _, err := os.ReadDir(f.path("")); err != nil {
		f.t.Errorf("readdir after the fault: %s", describeErrno(err))
	}
}

// checkSiblings writes beside what is poisoned.
func (f *faultDrill) checkSiblings(poisoned []lockInfo) {
	f.t.Helper()
	if err := os.WriteFile(f.path("tree/leaf"), f.fresh, 0o600); err != nil && !holds(poisoned, "usage") {
		f.t.Errorf("write beside it: %s", describeErrno(err))
	}
	if !holds(poisoned, "alloc") {
		if err := os.WriteFile(f.path("elsewhere/new"), f.fresh, 0o600); err != nil {
			f.t.Errorf("create beside it: %s", describeErrno(err))
		}
	}
}

// holds reports whether the lock of the name is among them.
func holds(locks []lockInfo, name string) bool {
	for _, l := range locks {
		if l.Name == name {
			return true
		}
	}
	return false
}

// checkRefused writes to what is poisoned, which must fail.
func (f *faultDrill) checkRefused(poisoned []lockInfo) {
	f.t.Helper()
	for _, l := range poisoned {
		if !strings.HasPrefix(l.Name, "inode:") {
			continue
		}
		if err := os.Chmod(f.m.Path(l.Path), 0o755); !isErrno(err, syscall.EIO) {
			f.t.Errorf("chmod of the poisoned %s: %s, want EIO", l.Path, describeErrno(err))
		}
	}
}

// checkHealed does everything again, which must succeed.
func (f *faultDrill) checkHealed(p store.FaultPoint) {
	f.t.Helper()
	if left := f.poisoned(); len(left) > 0 {
		f.t.Errorf("still poisoned after the reset: %+v", left)
	}
	os.Remove(f.path("new")) // made or not by what had no answer
	if _, err := os.Lstat(f.path("moved")); err == nil {
		if err := os.Rename(f.path("moved"), f.path("victim")); err != nil {
			f.t.Errorf("rename after the reset: %s", describeErrno(err))
		}
	}
	f.request("DELETE", "copy", nil, nil)
	for _, a := range attempts {
		if a.name == "LOCK" && strings.HasPrefix(p.Name, "davlock:") {
			continue // the lock may have been taken, and lasts
		}
		if err := a.do(f); err != nil {
			f.t.Errorf("%s after the reset: %s", a.name, describeErrno(err))
		}
		if a.name == "COPY" {
			f.request("DELETE", "copy", nil, nil)
		}
	}
	if b, err := os.ReadFile(f.path("victim")); err != nil || !bytes.Equal(b, f.fresh) {
		f.t.Errorf("after the reset the file reads as %d bytes, %v, want what was written", len(b), err)
	}
}
