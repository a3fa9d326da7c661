package fuse

import "engramfs/store"

// OpenFile is a file that programs have open through the mount.
type OpenFile struct {
	Opens  int  // open files in the sense of open(2)
	Native bool // the kernel accesses its content directly
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
	return files
}
