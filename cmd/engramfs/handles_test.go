package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"engramfs/web"
)

func TestOpeners(t *testing.T) {
	self := os.Getpid()
	list := openers([]int{self, unix.Gettid(), self, 1 << 30}, map[int]web.Opener{})
	if len(list) != 2 || list[0].PID != self || list[0].Name == "" || list[1] != (web.Opener{PID: 1 << 30}) {
		t.Errorf("openers = %+v, want this process and a thread that is gone", list)
	}
	many := make([]int, 3*maxOpeners)
	for i := range many {
		many[i] = 1<<30 + i
	}
	if n := len(openers(many, map[int]web.Opener{})); n != maxOpeners {
		t.Errorf("%d openers, want %d", n, maxOpeners)
	}
	seen := map[int]web.Opener{}
	openers([]int{1 << 30}, seen)
	seen[1<<30] = web.Opener{PID: 1 << 30, Name: "as it was"}
	if list := openers([]int{1 << 30}, seen); len(list) != 1 || list[0].Name != "as it was" {
		t.Errorf("openers = %+v: a thread is looked at twice", list)
	}
}

// Who has a file open is told with path, mode and program, for as long as it is open.
func TestHandlesNameTheirOpeners(t *testing.T) {
	point := mountPoint(t)
	s := start(t, filepath.Join(t.TempDir(), "data"), "--anonymous", "--mount", point)
	s.want(201, "PUT", s.url+"read.txt", "one")
	file, err := os.OpenFile(filepath.Join(point, "written.txt"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var readers []*os.File
	for range 2 {
		f, err := os.Open(filepath.Join(point, "read.txt"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		readers = append(readers, f)
	}
	list := func() map[string]web.OpenHandle {
		t.Helper()
		var l web.HandleList
		if err := json.Unmarshal([]byte(s.want(200, "GET", s.admin+"api/v1/handles", "")), &l); err != nil {
			t.Fatal(err)
		}
		all := map[string]web.OpenHandle{}
		for _, h := range l.Handles {
			all[h.Path] = h
		}
		return all
	}
	for path, want := range map[string]struct {
		opens int
		write bool
	}{"/written.txt": {1, true}, "/read.txt": {2, false}} {
		h := list()[path]
		if h.Door != "fuse" || h.Opens != want.opens || h.Write != want.write || h.Since == nil || len(h.Openers) != 1 || h.Openers[0].PID != os.Getpid() || h.Openers[0].Name == "" {
			t.Errorf("%s: %+v", path, h)
		}
	}
	address := strings.Trim(strings.TrimPrefix(s.admin, "http:"), "/")
	if code, out, errs := runProgram(t, "admin", "--admin", address, "handles"); code != exitClean || !strings.Contains(out, fmt.Sprintf("pid %d  /written.txt", os.Getpid())) {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if page := s.want(200, "GET", s.admin, ""); !strings.Contains(page, fmt.Sprintf("pid %d", os.Getpid())) {
		t.Error("the page does not name the opener")
	}
	if err := os.Remove(file.Name()); err != nil {
		t.Fatal(err)
	}
	if h, ok := list()[""]; !ok || h.Opens != 1 {
		t.Errorf("a file that was removed while it is open: %+v, %t", h, ok)
	}
	for _, f := range append(readers, file) {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	for range 500 { // RELEASE is not waited for
		if len(list()) == 0 {
			return
		}
	}
	t.Errorf("still open: %+v", list())
}
