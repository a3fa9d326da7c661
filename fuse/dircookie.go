package fuse

import (
	"cmp"
	"context"
	"hash/maphash"
	"slices"

	"engramfs/store"
)

// dirCookies are the cookies of the entries that an open directory has returned. That of
// an entry is its place in the list of them.
//
// Of most entries only a hash is kept: a program may hold a directory of a million long
// names open many times over. The name of one in between is found again by reading on
// from the last one before it that is kept.
type dirCookies struct {
	hashes []uint32 // of the name with the cookie firstCookie+i
	// kept are names in the order of their cookies. Up to thinned they are few; after
	// that, of the last reply, all: the kernel comes back for what it had no room for.
	kept    []keptName
	thinned int
}

type keptName struct {
	cookie uint64
	name   string
	// first: the names from here on follow this one in the directory, up to the next
	// first one, but not the one before: the program had gone back.
	first bool
}

// keepEvery is the distance of the cookies whose names are kept for good.
const keepEvery = 64

var cookieSeed = maphash.MakeSeed()

func hashName(name string) uint32 { return uint32(maphash.String(cookieSeed, name)) }

func (d *dirCookies) last() uint64 { return firstCookie - 1 + uint64(len(d.hashes)) }

// after returns the cookie for a name that follows the entry with the cookie off:
// the one that it has if it was returned there before.
func (d *dirCookies) after(off uint64, name string) uint64 {
	if next := off + 1; next <= d.last() && d.hashes[next-firstCookie] == hashName(name) {
		return next
	}
	return d.last() + 1
}

// remember notes that cookie stands for name, which follows the entry with the cookie off.
func (d *dirCookies) remember(off, cookie uint64, name string) {
	if cookie <= d.last() {
		return
	}
	first := len(d.hashes) == 0 || off != d.last()
	d.hashes = append(d.hashes, hashName(name))
	d.kept = append(d.kept, keptName{cookie, name, first})
}

// thin forgets most names from before the cookie off.
func (d *dirCookies) thin(off uint64) {
	at := d.thinned
	for ; at < len(d.kept) && d.kept[at].cookie < off; at++ {
		if k := d.kept[at]; k.first || k.cookie%keepEvery == 0 {
			d.kept[d.thinned] = k
			d.thinned++
		}
	}
	d.kept = slices.Delete(d.kept, d.thinned, at)
}

// name returns the name with the cookie, "" for those before the first. If that entry is
// gone it is the name of the last one before it in the directory that is not, or a kept
// one: what follows it follows the cookie.
func (d *dirCookies) name(ctx context.Context, s *store.Store, dir store.Ino, cookie uint64) (string, error) {
	if cookie < firstCookie {
		return "", nil
	}
	i, ok := slices.BinarySearchFunc(d.kept, cookie, func(k keptName, c uint64) int { return cmp.Compare(k.cookie, c) })
	if ok {
		return d.kept[i].name, nil
	}
	from, end, bound := d.kept[i-1], d.last()+1, "" // the first cookie's name is kept
	if i < len(d.kept) {
		if end = d.kept[i].cookie; !d.kept[i].first {
			bound = d.kept[i].name
		}
	}
	between := make(map[uint32]uint64, keepEvery)
	for c := from.cookie + 1; c < end; c++ {
		between[d.hashes[c-firstCookie]] = c
	}
	name := from.name
	err := s.ReadDir(ctx, dir, name, func(e store.Dirent) bool {
		if bound != "" && e.Name >= bound {
			return false
		}
		c, known := between[hashName(e.Name)]
		if known && c <= cookie {
			name = e.Name
		}
		return !known || c < cookie
	})
	return name, err
}
