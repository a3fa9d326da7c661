package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
)

// node is what a writer knows of one resource.
type node struct {
	dir  bool
	seed uint64 // with size: the content
	size int
	note string
}

// model is the state of a writer's folder: path -> node.
type model map[string]node

// op is one request and the state that it leads to.
type op struct {
	method, path, to string
	body             []byte
	note             string
	next             model
}

func (o op) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", o.method, o.path, o.to, o.note))
}

// maxNodes bounds a model, so that all of it can be read back in every cycle.
const maxNodes = 40

// author makes up the operations of one writer. Names and contents count up,
// so that no two are ever the same.
type author struct {
	root string
	rng  *rand.Rand
	n    int
}

// next returns an operation that must succeed in the state m.
func (a *author) next(m model) op {
	a.n++
	files, dirs := m.list(false), m.list(true)
	if len(m) > maxNodes {
		return a.remove(m, append(files, dirs...))
	}
	for {
		roll := a.rng.IntN(100)
		switch {
		case roll < 25:
			return a.put(m, a.fresh(dirs, "f"), a.rng.IntN(16<<10+1))
		case roll < 33:
			return a.put(m, a.fresh(dirs, "f"), a.largeSize())
		case roll < 41:
			return a.mkcol(m, a.fresh(dirs, "d"))
		case len(files) == 0: // The rest needs a file.
		case roll < 53:
			return a.put(m, a.pick(files), a.rng.IntN(24<<10))
		case roll < 56:
			return a.put(m, a.pick(files), a.largeSize())
		case roll < 66:
			return a.transfer("MOVE", m, a.pick(files), a.target(files, dirs))
		case roll < 71:
			if d, ok := a.movable(dirs); ok {
				return a.transfer("MOVE", m, d, a.fresh(outside(dirs, d), "d"))
			}
		case roll < 81:
			return a.transfer("COPY", m, a.pick(files), a.target(files, dirs))
		case roll < 91:
			return a.annotate(m, a.pick(files))
		default:
			return a.remove(m, append(files, dirs...))
		}
	}
}

func (a *author) largeSize() int {
	edges := []int{16<<10 + 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 300_000}
	return edges[a.rng.IntN(len(edges))]
}

func (a *author) pick(from []string) string { return from[a.rng.IntN(len(from))] }

// fresh returns a path in one of the folders that has never been used.
func (a *author) fresh(dirs []string, kind string) string {
	return a.pick(append(dirs, a.root)) + fmt.Sprintf("/%s%d", kind, a.n)
}

// target is a new path, or one time in three a file that exists.
func (a *author) target(files, dirs []string) string {
	if a.rng.IntN(3) == 0 {
		return a.pick(files)
	}
	return a.fresh(dirs, "f")
}

func (a *author) movable(dirs []string) (string, bool) {
	if len(dirs) == 0 {
		return "", false
	}
	return a.pick(dirs), true
}

// outside returns the folders that are not d and not below it.
func outside(dirs []string, d string) []string {
	return slices.DeleteFunc(slices.Clone(dirs), func(p string) bool { return below(p, d) })
}

func (a *author) put(m model, p string, size int) op {
	next := maps.Clone(m)
	seed := uint64(a.n)<<8 | uint64(a.root[len(a.root)-1])
	next[p] = node{seed: seed, size: size, note: m[p].note}
	return op{method: "PUT", path: p, body: Content(seed, size), next: next}
}

func (a *author) mkcol(m model, p string) op {
	next := maps.Clone(m)
	next[p] = node{dir: true}
	return op{method: "MKCOL", path: p, next: next}
}

func (a *author) annotate(m model, p string) op {
	next := maps.Clone(m)
	n := next[p]
	n.note = fmt.Sprintf("note-%d", a.n)
	next[p] = n
	return op{method: "PROPPATCH", path: p, note: n.note, next: next}
}

func (a *author) remove(m model, from []string) op {
	p := a.pick(from)
	return op{method: "DELETE", path: p, next: m.without(p)}
}

// transfer makes a MOVE of anything or a COPY of a file. Dead properties go
// along (RFC 4918 sections 9.8.2 and 9.9.1) and what was at the target is gone.
func (a *author) transfer(method string, m model, from, to string) op {
	if from == to {
		to += fmt.Sprint("-", a.n)
	}
	next := m.without(to)
	if method == "MOVE" {
		next = next.without(from)
	}
	for p, n := range m {
		if below(p, from) {
			next[to+p[len(from):]] = n
		}
	}
	return op{method: method, path: from, to: to, next: next}
}

// below reports whether p is d or lies under it.
func below(p, d string) bool { return p == d || strings.HasPrefix(p, d+"/") }

func (m model) without(d string) model {
	next := maps.Clone(m)
	maps.DeleteFunc(next, func(p string, _ node) bool { return below(p, d) })
	return next
}

// list returns the paths of the folders or of the files, in order, so that a
// seed leads to the same operations every time.
func (m model) list(dirs bool) []string {
	var out []string
	for p, n := range m {
		if n.dir == dirs {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

// send carries out an operation. It returns the status, or an error when there
// was no complete answer.
func (o op) send(d *DAV) (int, error) {
	switch o.method {
	case "MOVE", "COPY":
		r, err := d.Transfer(o.method, o.path, o.to)
		return status(r), err
	case "PROPPATCH":
		return d.Annotate(o.path, o.note)
	default:
		r, _, err := d.Do(o.method, o.path, nil, o.body)
		return status(r), err
	}
}

// succeeded reports whether a status acknowledges the whole operation: a 207
// does so for PROPPATCH only, elsewhere it says that a part failed.
func (o op) succeeded(status int) bool {
	return status >= 200 && status < 300 && (status == 207) == (o.method == "PROPPATCH")
}

// observe reads everything below root and tells what is there in terms of the
// states it may be in. Content that is in none of them is an error: it was
// never written as a whole, or was not the last.
func observe(d *DAV, root string, may ...model) (model, error) {
	got := model{}
	err := d.Walk(root, func(e Entry) error {
		if e.Dir {
			got[e.Path] = node{dir: true}
			return nil
		}
		r, body, err := d.Do("GET", e.Path, nil, nil)
		if err != nil || r.Status != 200 {
			return fmt.Errorf("GET %s: %v, status %d", e.Path, err, status(r))
		}
		if e.Size != fmt.Sprint(len(body)) {
			return fmt.Errorf("%s: getcontentlength %s, and GET gives %d bytes", e.Path, e.Size, len(body))
		}
		for _, m := range may {
			n, ok := m[e.Path]
			if ok && !n.dir && n.size == len(body) && bytes.Equal(body, Content(n.seed, n.size)) {
				n.note = e.Note
				got[e.Path] = n
				return nil
			}
		}
		return fmt.Errorf("%s: %d bytes that are no content it may have", e.Path, len(body))
	})
	return got, err
}

// diff describes how got differs from want, one path a line.
func (want model) diff(got model) string {
	var b strings.Builder
	all := maps.Clone(want)
	maps.Copy(all, got)
	for _, p := range slices.Sorted(maps.Keys(all)) {
		w, inWant := want[p]
		g, inGot := got[p]
		if inWant != inGot || w != g {
			fmt.Fprintf(&b, "  %s: expected %v %+v, found %v %+v\n", path.Clean(p), inWant, w, inGot, g)
		}
	}
	return b.String()
}
