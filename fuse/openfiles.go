package fuse

import (
	"slices"

	"engramfs/store"
)

// OpenFile is a file that programs have open through the mount.
type OpenFile struct {
	Opens  int  // open files in the sense of open(2)
	Native bool // the kernel accesses its content directly
	// Threads are those that have opened it, by gettid(2), ascending and each once. The
	// kernel does not tell of those in PID namespaces that this process cannot see.
	Threads []int
}

// OpenFiles returns what programs have open. It takes no lock of the store.
func (m *Mounted) OpenFiles() map[store.Ino]OpenFile {
	files := map[store.Ino]OpenFile{}
	for i := range m.fs.table.shards {
		s := &m.fs.table.shards[i]
		s.mu.Lock()
		for ino, e := range s.entries {
			if e.opens > 0 {
				files[ino] = OpenFile{Opens: e.opens, Native: e.mode == modeNative}
			}
		}
		s.mu.Unlock()
	}
	m.fs.files.each(func(f *openFile) {
		file, ok := files[f.ino]
		if ok && f.opener != 0 {
			file.Threads = append(file.Threads, int(f.opener))
			files[f.ino] = file
		}
	})
	for ino, file := range files {
		slices.Sort(file.Threads)
		file.Threads = slices.Compact(file.Threads)
		files[ino] = file
	}
	return files
}
