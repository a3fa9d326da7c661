package store

import "context"

// FileState says how far a file or directory can be relied on.
type FileState string

// The states, the worst first: of several the first one counts.
const (
	StatePoisoned FileState = "poisoned" // a writer died holding its lock: reads are recovered, writes refused
	StateDamaged  FileState = "damaged"  // a part of its content is known to have failed a check
	StateUnsealed FileState = "unsealed" // it is, or was just now, written in place: no checksums yet
	StateOK       FileState = "ok"
)

// FileState returns the state of an inode. The error matches ErrStale.
func (s *Store) FileState(ctx context.Context, ino Ino) (FileState, error) {
	n, err := s.nodes.acquire(ino)
	if err != nil {
		return "", err
	}
	defer s.nodes.release(n)
	v, err := s.snapshot(ctx, "file_state", n)
	switch {
	case err != nil:
		return "", err
	case n.guard.Event() != nil:
		return StatePoisoned, nil
	case len(s.damages.look(ino)) > 0:
		return StateDamaged, nil
	case v.content.kind == contentBlob && !v.content.sealed:
		return StateUnsealed, nil
	}
	return StateOK, nil
}
