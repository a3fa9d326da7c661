package store

import (
	"context"
	"time"
)

// Relabel renews the labels of all files below a directory.
func (s *Store) Relabel(ctx context.Context, dir Ino) error {
	r := labelRound{s: s, begun: time.Now()}
	return r.tree(ctx, dir)
}
