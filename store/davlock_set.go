package store

import (
	"container/heap"
	"strings"
	"time"
)

// davLocks is the table's content: a trie by path element, so that both the
// locks above a path and those below are found without looking at the rest.
type davLocks struct {
	tokens     map[string]*heldDAVLock
	principals map[string]int // live locks by principal
	root       davLockNode
	expiry     davLockHeap
}

type heldDAVLock struct {
	DAVLock
	index int // in davLocks.expiry
}

// davLockNode is one path element. INVARIANT: a node other than the root has a
// lock or a child.
type davLockNode struct {
	children map[string]*davLockNode
	locks    []*heldDAVLock
}

func newDAVLocks() davLocks {
	return davLocks{tokens: map[string]*heldDAVLock{}, principals: map[string]int{}}
}

// put adds l, or replaces the lock with its token.
func (s *davLocks) put(l DAVLock) {
	if old, ok := s.tokens[l.Token]; ok {
		old.DAVLock = l
		heap.Fix(&s.expiry, old.index)
		return
	}
	held := &heldDAVLock{DAVLock: l}
	s.tokens[l.Token] = held
	s.principals[l.Principal]++
	heap.Push(&s.expiry, held)
	n := &s.root
	for elem := range pathElems(l.Path) {
		child := n.children[elem]
		if child == nil {
			child = &davLockNode{}
			if n.children == nil {
				n.children = map[string]*davLockNode{}
			}
			n.children[elem] = child
		}
		n = child
	}
	n.locks = append(n.locks, held)
}

// remove takes l out; removing it twice is harmless.
func (s *davLocks) remove(l *heldDAVLock) {
	if s.tokens[l.Token] != l {
		return
	}
	delete(s.tokens, l.Token)
	if s.principals[l.Principal]--; s.principals[l.Principal] <= 0 {
		delete(s.principals, l.Principal)
	}
	heap.Remove(&s.expiry, l.index)
	trail := []*davLockNode{&s.root}
	var names []string
	for elem := range pathElems(l.Path) {
		names = append(names, elem)
		trail = append(trail, trail[len(trail)-1].children[elem])
	}
	n := trail[len(trail)-1]
	for i, held := range n.locks {
		if held == l {
			n.locks = append(n.locks[:i:i], n.locks[i+1:]...)
			break
		}
	}
	for i := len(names) - 1; i >= 0; i-- {
		if n := trail[i+1]; len(n.locks) > 0 || len(n.children) > 0 {
			return
		}
		delete(trail[i].children, names[i])
	}
}

// covering visits the locks that apply to path, outermost first.
func (s *davLocks) covering(path string, visit func(*heldDAVLock)) {
	s.walk(path, func(n *davLockNode, last bool) {
		for _, l := range n.locks {
			if last || l.Infinite {
				visit(l)
			}
		}
	})
}

// within visits the locks on path and below.
func (s *davLocks) within(path string, visit func(*heldDAVLock)) {
	s.walk(path, func(n *davLockNode, last bool) {
		if last {
			n.each(visit)
		}
	})
}

// walk visits the nodes from the root to path; last marks path's own, which is
// not visited when the trie does not have it.
func (s *davLocks) walk(path string, visit func(n *davLockNode, last bool)) {
	n := &s.root
	for elem := range pathElems(path) {
		visit(n, false)
		if n = n.children[elem]; n == nil {
			return
		}
	}
	visit(n, true)
}

func (n *davLockNode) each(visit func(*heldDAVLock)) {
	for _, l := range n.locks {
		visit(l)
	}
	for _, c := range n.children {
		c.each(visit)
	}
}

// conflicts returns the live locks that stand against l: an exclusive lock
// suffers no other on a resource that both cover, a shared one no exclusive.
func (s *davLocks) conflicts(now time.Time, l *DAVLock) []DAVLock {
	var found []DAVLock
	check := func(have *heldDAVLock) {
		if have.Expires.After(now) && (!l.Shared || !have.Shared) {
			found = append(found, have.DAVLock)
		}
	}
	if !l.Infinite {
		s.covering(l.Path, check)
		return found
	}
	s.covering(l.Path, func(have *heldDAVLock) {
		if have.Path != l.Path { // those on the path itself come with within
			check(have)
		}
	})
	s.within(l.Path, check)
	return found
}

// full reports whether principal may have no further lock once gone are removed.
func (s *davLocks) full(principal string, gone []*heldDAVLock) bool {
	theirs := s.principals[principal]
	for _, l := range gone {
		if l.Principal == principal {
			theirs--
		}
	}
	return len(s.tokens)-len(gone) >= MaxLocks || theirs >= MaxPrincipalLocks
}

// expired returns the locks whose time is over.
func (s *davLocks) expired(now time.Time) []*heldDAVLock {
	var gone []*heldDAVLock
	s.expiry.until(0, now, func(l *heldDAVLock) { gone = append(gone, l) })
	return gone
}

// davLockHeap orders locks by expiry (container/heap).
type davLockHeap []*heldDAVLock

func (h davLockHeap) Len() int           { return len(h) }
func (h davLockHeap) Less(i, j int) bool { return h[i].Expires.Before(h[j].Expires) }
func (h davLockHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push is for container/heap.
func (h *davLockHeap) Push(x any) {
	l := x.(*heldDAVLock)
	l.index = len(*h)
	*h = append(*h, l)
}

// Pop is for container/heap.
func (h *davLockHeap) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return l
}

// until visits the locks from heap position i down that expire by now.
func (h davLockHeap) until(i int, now time.Time, visit func(*heldDAVLock)) {
	if i >= len(h) || h[i].Expires.After(now) {
		return
	}
	visit(h[i])
	h.until(2*i+1, now, visit)
	h.until(2*i+2, now, visit)
}

// pathWithin reports whether path lies strictly below dir.
func pathWithin(path, dir string) bool {
	if dir == "/" {
		return path != "/"
	}
	return len(path) > len(dir) && path[len(dir)] == '/' && strings.HasPrefix(path, dir)
}

// pathElems yields the elements of a clean absolute path.
func pathElems(path string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		rest := strings.TrimPrefix(path, "/")
		for rest != "" {
			elem, tail, _ := strings.Cut(rest, "/")
			if !yield(elem) {
				return
			}
			rest = tail
		}
	}
}
