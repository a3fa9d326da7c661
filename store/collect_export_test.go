package store

import "engramfs/store/blob"

// HoldTree keeps the collector away from the orphan root.
func (s *Store) HoldTree(root Ino) { s.collector.beginTree(root) }

// OrphanDirs returns how many directories are counted as orphans.
func (s *Store) OrphanDirs() int64 { return s.collector.dirs.Load() }

// BeginBlob and EndBlob do what an upload does whose change is made in between.
func (s *Store) BeginBlob(id blob.ID) { s.collector.begin(id) }
func (s *Store) EndBlob(id blob.ID)   { s.collector.end(id, false) }
