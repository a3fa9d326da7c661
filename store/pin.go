package store

import (
	"context"
	"io/fs"
	"sync/atomic"
)

// Pin keeps an inode whose last name is removed, as an open handle does. A PUT
// over a file that is only pinned keeps its inode.
type Pin struct {
	s      *Store
	n      *node
	closed atomic.Bool
}

// Pin returns a pin of ino, any type of inode. ErrStale: it is gone.
func (s *Store) Pin(ctx context.Context, ino Ino) (*Pin, error) {
	n, err := s.nodes.acquire(ino)
	if err != nil {
		return nil, err
	}
	if err := s.readNode(ctx, "pin", n, func(*inode) error { n.pins.Add(1); return nil }); err != nil {
		s.nodes.release(n)
		return nil, err
	}
	return &Pin{s: s, n: n}, nil
}

// Ino returns the inode's number.
func (p *Pin) Ino() Ino { return p.n.ino }

// Close gives the pin up; the inode is then collected if it has no name. A
// second Close returns fs.ErrClosed.
func (p *Pin) Close() error {
	if !p.closed.CompareAndSwap(false, true) {
		return fs.ErrClosed
	}
	if p.n.pins.Add(-1) == 0 && !p.n.kept() {
		p.s.collector.closed(p.n)
	}
	p.s.nodes.release(p.n)
	return nil
}
