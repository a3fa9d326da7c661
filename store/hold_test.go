package store

// HoldAllocator holds the allocator's lock until the channel is closed.
func (s *Store) HoldAllocator(until <-chan struct{}) error {
	return s.alloc.Write("hold", func(*allocator) error {
		<-until
		return nil
	})
}
