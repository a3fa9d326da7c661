package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"engramfs/fuse"
	"engramfs/store"
	"engramfs/web"
)

// handles lists the files that clients hold open. What the mount does not know is
// WebDAV's, or held by the server itself for a moment.
func (s *server) handles() []web.OpenHandle {
	var mounted map[store.Ino]fuse.OpenFile
	if s.mount != nil {
		mounted = s.mount.OpenFiles()
	}
	var list []web.OpenHandle
	processes := map[int]web.Opener{}
	for _, f := range s.store.OpenFiles() {
		h := web.OpenHandle{Ino: uint64(f.Ino), Door: "webdav", Opens: f.Opens, Write: f.Writers > 0, Since: &f.Since}
		if m, ok := mounted[f.Ino]; ok {
			h.Door, h.Opens, h.Openers = "fuse", m.Opens, openers(m.Threads, processes)
		}
		// Without a path it was removed while it is open.
		h.Path, _ = s.store.PathOf(context.Background(), f.Ino)
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b web.OpenHandle) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Ino, b.Ino)) })
	return list
}

// maxOpeners bounds the processes that are named of one file.
const maxOpeners = 20

// openers returns the processes of threads, each once. known has those of threads that
// were looked at before: one program may have thousands of files open.
func openers(threads []int, known map[int]web.Opener) []web.Opener {
	var list []web.Opener
	for _, tid := range threads[:min(len(threads), maxOpeners)] {
		o, ok := known[tid]
		if !ok {
			o = openerOf(tid)
			known[tid] = o
		}
		if !slices.Contains(list, o) {
			list = append(list, o)
		}
	}
	return list
}

// openerOf returns the process of a thread as proc(5) tells of it, and without a name
// that of a thread which has ended, whose process cannot be known any more.
func openerOf(tid int) web.Opener {
	o := web.Opener{PID: tid}
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return o
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		switch value = strings.TrimSpace(value); name {
		case "Name":
			o.Name = value
		case "Tgid":
			if pid, err := strconv.Atoi(value); err == nil {
				o.PID = pid
			}
			return o
		}
	}
	return o
}
