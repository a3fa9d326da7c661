package store

import "time"

// OpenFile is a file that handles hold open.
type OpenFile struct {
	Ino     Ino
	Opens   int       // handles
	Writers int       // those of them that may write
	Since   time.Time // of the first
}

// OpenFiles returns the files that are open, in no order. It takes none of the
// locks that can be poisoned or stuck.
func (s *Store) OpenFiles() []OpenFile {
	var list []OpenFile
	for i := range s.nodes.shards {
		sh := &s.nodes.shards[i]
		sh.mu.Lock()
		for _, n := range sh.nodes {
			if opens := n.opens.Load(); opens > 0 {
				list = append(list, OpenFile{n.ino, int(opens), int(n.writers.Load()), time.Unix(0, n.opened.Load())})
			}
		}
		sh.mu.Unlock()
	}
	return list
}

// addOpen counts a new handle.
func (n *node) addOpen(now time.Time) {
	if n.opens.Add(1) == 1 {
		n.opened.Store(now.UnixNano())
	}
}
