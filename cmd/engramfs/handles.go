package main

import (
	"cmp"
	"context"
	"slices"

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
	for _, f := range s.store.OpenFiles() {
		h := web.OpenHandle{Ino: uint64(f.Ino), Door: "webdav", Opens: f.Opens, Write: f.Writers > 0, Since: &f.Since}
		if m, ok := mounted[f.Ino]; ok {
			h.Door, h.Opens = "fuse", m.Opens
		}
		// Without a path it was removed while it is open.
		h.Path, _ = s.store.PathOf(context.Background(), f.Ino)
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b web.OpenHandle) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Ino, b.Ino)) })
	return list
}
