package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"engramfs/internal/logbuf"
	"engramfs/store"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
)

// stopped returns a data folder with a little of everything, that is not served.
func stopped(t *testing.T) *site {
	t.Helper()
	x := newSite(t, filepath.Join(t.TempDir(), "data"))
	x.mustOpen()
	x.populate(rand.New(rand.NewPCG(5, 5)))
	if err := x.s.Quiesce(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.waitCopied()
	x.close()
	return x
}

// files returns what every file and folder below dir is, with its time.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		all[path] = fmt.Sprint(fi.Mode(), fi.ModTime())
		if e.Type().IsRegular() {
			b, err := os.ReadFile(path)
			all[path] += fmt.Sprintf(" %x", sha256.Sum256(b))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// check runs the command on the folder.
func (x *site) runCheck(args ...string) (code int, stdout, stderr string) {
	x.t.Helper()
	return runProgram(x.t, append([]string{"check", "--data", x.dir}, args...)...)
}

// mustCheck is runCheck, and fails the test unless it ends with code.
func (x *site) mustCheck(code int, args ...string) string {
	x.t.Helper()
	got, out, errs := x.runCheck(args...)
	if got != code {
		x.t.Fatalf("check %v: exit code %d, want %d\n%s%s", args, got, code, out, errs)
	}
	return out
}

// edit changes the metadata of a folder that is not served.
func (x *site) edit(fn func(tx meta.Txn)) {
	x.t.Helper()
	db, err := pebble.Open(filepath.Join(x.dir, metaDir), pebble.Options{})
	if err != nil {
		x.t.Fatal(err)
	}
	err = db.Update(func(tx meta.Txn) error { fn(tx); return nil })
	if err = errors.Join(err, db.Close()); err != nil {
		x.t.Fatal(err)
	}
}

// keys returns the engine's keys of a kind.
func keys(tx meta.Txn, kind byte) (all [][]byte) {
	_ = tx.Scan([]byte{kind}, []byte{kind + 1}, func(key, _ []byte) bool {
		all = append(all, bytes.Clone(key))
		return true
	})
	return all
}

func rootKey(kind byte, name string) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{kind}, uint64(store.RootIno)), name...)
}

// blobFiles returns the files of the content.
func (x *site) blobFiles() []string {
	x.t.Helper()
	names, err := filepath.Glob(filepath.Join(x.dir, blobsDir, "??", strings.Repeat("?", 32)))
	if err != nil || len(names) == 0 {
		x.t.Fatalf("no content: %v", err)
	}
	return names
}

func (x *site) flipContent() {
	x.t.Helper()
	name := x.blobFiles()[0]
	fi, err := os.Stat(name)
	if err != nil {
		x.t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err == nil {
		b[len(b)/2] ^= 1
		err = errors.Join(os.WriteFile(name, b, 0o600), os.Chtimes(name, fi.ModTime(), fi.ModTime()))
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

func TestCheckOfAGoodFolderChangesNothing(t *testing.T) {
	x := stopped(t)
	for _, dir := range []string{x.dir, cutOff(t, x)} {
		before := files(t, dir)
		for _, args := range []string{"", "--content", "--json", "--repair --dry-run"} {
			y := newSite(t, dir)
			y.mustCheck(exitClean, strings.Fields(args)...)
			same(t, before, files(t, dir), args)
		}
	}
	x.mustOpen()
	x.check()
	x.close()
}

// cutOff returns a copy of the folder as kill -9 leaves it: the metadata's log is yet to be
// replayed.
func cutOff(t *testing.T, x *site) string {
	t.Helper()
	x.mustOpen()
	x.put("/late", []byte("late"), x.s.Now())
	x.put("/late.big", bytes.Repeat([]byte("late"), 30_000), x.s.Now())
	a, err := x.s.LookupPath(t.Context(), "/d1/f7")
	if err != nil {
		t.Fatal(err)
	}
	h, err := x.s.Open(t.Context(), a.Ino, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(t.Context(), []byte("in place"), 1000); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "cut")
	copyTree(t, x.dir, dir)
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	x.close()
	return dir
}

func TestCheckFindsAndRepairs(t *testing.T) {
	for code, tc := range map[string]struct {
		harm func(x *site)
		args string // that it takes to find it
		left bool   // a repair cannot mend it
	}{
		"usage":       {harm: func(x *site) { x.edit(func(tx meta.Txn) { tx.Add([]byte("Ufiles"), 1) }) }},
		"dirent.lost": {harm: func(x *site) { x.edit(func(tx meta.Txn) { tx.Delete(rootKey('D', "d1")) }) }},
		"inode.root":  {harm: func(x *site) { x.edit(func(tx meta.Txn) { tx.Delete(rootKey('I', "")) }) }},
		"record.key":  {harm: func(x *site) { x.edit(func(tx meta.Txn) { tx.Put([]byte("I7"), nil) }) }},
		"link.records": {harm: func(x *site) {
			x.edit(func(tx meta.Txn) { tx.Delete(keys(tx, 'H')[0]) })
		}},
		"refs.count": {harm: func(x *site) {
			x.edit(func(tx meta.Txn) { tx.Put(keys(tx, 'R')[0], meta.EncodeCounter(5)) })
		}},
		"content.sums": {harm: func(x *site) {
			x.edit(func(tx meta.Txn) { // proven by the label alone
				for _, key := range keys(tx, 'S') {
					tx.Delete(key)
				}
			})
		}},
		"content.missing": {harm: func(x *site) {
			if err := os.Remove(x.blobFiles()[0]); err != nil {
				x.t.Fatal(err)
			}
		}},
		"content.size": {harm: func(x *site) {
			if err := os.Truncate(x.blobFiles()[0], 1000); err != nil {
				x.t.Fatal(err)
			}
		}},
		"content.damaged": {harm: (*site).flipContent, args: "--content", left: true},
	} {
		t.Run(code, func(t *testing.T) {
			x := stopped(t)
			tc.harm(x)
			before := files(t, x.dir)
			args := strings.Fields(tc.args)
			if out := x.mustCheck(exitRun, args...); !strings.Contains(out, "["+code) || !strings.HasPrefix(out, "problem: ") {
				t.Errorf("check: %s", out)
			}
			if out := x.mustCheck(exitRun, append(args, "--repair", "--dry-run")...); !tc.left && !strings.Contains(out, "would repair: ") {
				t.Errorf("dry run: %s", out)
			}
			same(t, before, files(t, x.dir), code)
			if tc.left {
				x.mustCheck(exitRun, append(args, "--repair")...)
				return
			}
			if out := x.mustCheck(exitClean, append(args, "--repair")...); !strings.Contains(out, "repaired: ") {
				t.Errorf("repair: %s", out)
			}
			reports, _ := filepath.Glob(filepath.Join(x.dir, repairPrefix+"*.json"))
			if len(reports) != 1 {
				t.Errorf("reports: %v", reports)
			}
			x.mustCheck(exitClean)
			x.mustOpen()
			x.close()
			x.mustCheck(exitClean)
		})
	}
}

// Content that has lost its checksums and that nothing proves is not made sound in
// silence.
func TestRepairListsUnprovenContent(t *testing.T) {
	x := stopped(t)
	x.flipContent()
	x.edit(func(tx meta.Txn) {
		for _, key := range keys(tx, 'S') {
			if binary.BigEndian.Uint32(key[len(key)-4:]) == 0 {
				tx.Delete(key)
			}
		}
	})
	out := x.mustCheck(exitRun, "--repair")
	if n := strings.Count(out, "content.unproven"); n != 1 {
		t.Errorf("%d files unproven, want 1:\n%s", n, out)
	}
	if !strings.Contains(out, "it is what its digest says") {
		t.Errorf("nothing was proven:\n%s", out)
	}
}

func TestCheckThatCannotRun(t *testing.T) {
	x := stopped(t)
	want := func(name, hint string, args ...string) {
		t.Helper()
		code, out, errs := x.runCheck(args...)
		if code != exitUsage || out != "" || !strings.HasPrefix(errs, "engramfs: error: ") || !strings.Contains(errs, hint) {
			t.Errorf("%s: exit code %d\n%s%s", name, code, out, errs)
		}
	}
	want("dry run alone", "--dry-run goes with --repair", "--dry-run")

	x.mustOpen() // holds no lock of the folder: see site
	x.close()
	d, err := openData(x.dir)
	if err != nil {
		t.Fatal(err)
	}
	want("in use", "engramfs admin check")
	want("in use", "engramfs admin check", "--repair")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	marker := filepath.Join(x.dir, metaDir, "FORMAT")
	put(t, marker, "nonsense")
	want("engine refused", "hint: the next start of the server makes new metadata")
	want("engine refused", "hint: the next start of the server makes new metadata", "--repair")
	x.loseEngine()
	want("engine gone", "hint: the next start of the server makes new metadata")

	put(t, filepath.Join(x.dir, versionFile), "engramfs 99\n")
	want("version", "unknown version of the data folder")
	x.dir = t.TempDir()
	want("no data folder", "no data folder")
	if got := names(t, x.dir); got != "" {
		t.Errorf("a check made %s", got)
	}
}

// A repair as root would leave files that the server's own user cannot open.
func TestRepairOfAnotherUsersFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		need(t, "needs root, to give a folder away")
	}
	x := stopped(t)
	if err := os.Chown(x.dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	before := files(t, x.dir)
	code, _, errs := x.runCheck("--repair")
	if code != exitUsage || !strings.Contains(errs, "belongs to user 12345") || !strings.Contains(errs, "hint: ") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
	x.mustCheck(exitClean)
	x.mustCheck(exitClean, "--repair", "--dry-run")
	same(t, before, files(t, x.dir), "another user's")
}

// A block that fails the engine's checksum is no answer that metadata is clean.
func TestCheckReadsTheWholeEngine(t *testing.T) {
	x := stopped(t)
	tables, _ := filepath.Glob(filepath.Join(x.dir, metaDir, "*.sst"))
	if len(tables) == 0 {
		t.Fatal("no tables")
	}
	b, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	put(t, tables[0], string(b))
	if code, _, errs := x.runCheck(); code != exitUsage || !strings.Contains(errs, "is damaged") {
		t.Errorf("exit code %d\n%s", code, errs)
	}
}

func TestCheckAsJSON(t *testing.T) {
	x := stopped(t)
	var r checkReport
	if err := json.Unmarshal([]byte(x.mustCheck(exitClean, "--json")), &r); err != nil || r.Problems == nil || r.Repaired == nil {
		t.Errorf("clean: %+v, %v", r, err)
	}
	x.edit(func(tx meta.Txn) { tx.Add([]byte("Ufiles"), 1) })
	if err := json.Unmarshal([]byte(x.mustCheck(exitRun, "--json")), &r); err != nil || len(r.Problems) != 1 || r.Problems[0].Code != "usage" || !r.Problems[0].Repairable {
		t.Errorf("a problem: %+v, %v", r, err)
	}
	if err := json.Unmarshal([]byte(x.mustCheck(exitRun, "--json", "--repair", "--dry-run")), &r); err != nil || !r.DryRun || len(r.Problems) != 0 || len(r.Repaired) != 1 {
		t.Errorf("dry run: %+v, %v", r, err)
	}
}

// A folder that has lost its lock file is not checked without one.
func TestCheckMakesALockFile(t *testing.T) {
	x := stopped(t)
	lock := filepath.Join(x.dir, lockFile)
	before := files(t, x.dir)
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	x.mustCheck(exitClean)
	after := files(t, x.dir)
	if _, ok := after[lock]; !ok {
		t.Error("no lock file was made")
	}
	for _, name := range []string{lock, x.dir} { // the folder has a new time
		delete(before, name)
		delete(after, name)
	}
	same(t, before, after, "without a lock file")
}

// After a repair the second copy is not taken for current until it has the repair.
func TestRepairReachesTheSecondCopy(t *testing.T) {
	x := stopped(t)
	x.edit(func(tx meta.Txn) { tx.Delete(rootKey('D', "d1")) })
	x.mustCheck(exitClean, "--repair")
	x.mustOpen()
	x.waitCopied()
	if x.meta.copy.Status().Snapshot.IsZero() {
		t.Error("the copy went on without a snapshot")
	}
	want := x.tree()
	if !slices.Contains(strings.Split(want["/d1"], " "), "7:8") {
		t.Fatalf("/d1 is %q", want["/d1"])
	}
	x.close()
	x.loseEngine()
	x.mustOpen()
	defer x.close()
	same(t, want, x.tree(), x.meta.salvaged)
	if r := x.report(); r.Copy == nil || !r.Copy.Complete || r.Store.Repaired > 0 {
		t.Errorf("report %+v %+v", r.Copy, r.Store)
	}
}

// TestCheckAfterKill checks what kill -9 of the program leaves, with the program.
func TestCheckAfterKill(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	program := func(args ...string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), asMain+"=1")
		return cmd
	}
	var stdout, stderr logbuf.Buffer
	server := program("serve", "--data", data, "--anonymous", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--reserve=none")
	server.Stdout, server.Stderr = &stdout, &stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	url, _ := waitReady(t, &stdout, &stderr)
	s := &running{t: t}
	s.want(201, "PUT", url+"a", "small")
	s.want(201, "PUT", url+"b", strings.Repeat("large", 20_000))
	if out, err := program("check", "--data", data).CombinedOutput(); err == nil || !strings.Contains(string(out), errDataInUse.Error()) {
		t.Errorf("while it runs: %v\n%s", err, out)
	}
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = server.Wait() // it was killed
	before := files(t, data)
	out, err := program("check", "--data", data, "--content").CombinedOutput()
	if err != nil || string(out) != "0 problems, 0 repairs\n" {
		t.Errorf("%v\n%s", err, out)
	}
	same(t, before, files(t, data), "after a kill")
}
