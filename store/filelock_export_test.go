package store

// Waiting returns how many requests wait on ino.
func (t *FileLocks) Waiting(ino Ino) (n int) {
	_, _ = t.set.Read("test", func(s *fileLocks) {
		if f := s.files[ino]; f != nil {
			n = len(f.queue)
		}
	})
	return n
}
