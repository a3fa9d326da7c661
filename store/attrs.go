package store

import "context"

// AppendAttrs appends the attributes of the inodes of entries to attrs, in their
// order. An inode that no longer exists, or cannot be read, has Mode 0. Those in memory come from
// there, and the others from one pass over the engine, which does not make them
// take room in memory.
func (s *Store) AppendAttrs(ctx context.Context, attrs []Attr, entries []Dirent) ([]Attr, error) {
	w := plusWalk{s: s, ctx: ctx, chunk: entries}
	if err := w.fill(); err != nil {
		return attrs, err
	}
	return append(attrs, w.attrs...), nil
}
