package main

import (
	"bytes"
	"errors"
	"fmt"

	"engramfs/internal/bench/httpwire"
	"engramfs/internal/bench/pattern"
)

// row is one line of the table.
type row struct {
	goal
	needs   fixture
	measure func(*bench, *server, *meter, int) (sample, error)
	// check verifies content after the first round.
	check func(*bench, *server) error
	// after removes what the row has left.
	after func(*bench, *server) error
	// yardstick measures what no server takes part in.
	yardstick func(*bench) (float64, error)
}

func allRows() []row {
	return []row{
		{goal: goal{name: "get4k", title: "GET 4 KiB, 32 conns", unit: "req/s", against: "xnet", reach: 1.2, next: 1.0, nextAgainst: "apache"},
			needs: smallFile, measure: getLoad(32, false)},
		{goal: goal{name: "get4k1", title: "GET 4 KiB, 1 conn", unit: "req/s"}, needs: smallFile, measure: getLoad(1, false)},
		{goal: goal{name: "range4k", title: "range 4 KiB of the big file, 32", unit: "req/s"}, needs: bigFile, measure: getLoad(32, true), check: checkRanges},
		{goal: goal{name: "get1g", title: "GET the big file", unit: "MiB/s", against: "nginx", reach: 1.0, next: 0.7, nextAgainst: "lighttpd"},
			needs: bigFile, measure: getBig},
		{goal: goal{name: "put4k", title: "PUT 4 KiB new, 32", unit: "req/s", against: "nginx", reach: 0.7, next: 1.0},
			measure: putLoad("new32", 32, 0), check: checkPuts("new32")},
		{goal: goal{name: "put4k1", title: "PUT 4 KiB new, 1", unit: "req/s", against: "yardstick", reach: 0.5, next: 0.8},
			measure: putLoad("new1", 1, 0), check: checkPuts("new1"),
			yardstick: func(b *bench) (float64, error) { return fsyncRate(b.dir, b.secs) }},
		{goal: goal{name: "over4k", title: "PUT 4 KiB overwrite, 32", unit: "req/s", against: "xnet", reach: 1.0, next: 1.3},
			measure: putLoad("over", 32, 100), check: checkPuts("over")},
		{goal: goal{name: "put1g", title: "PUT the big file", unit: "MiB/s", against: "yardstick", reach: 0.85, next: 0.95},
			measure: putBig, check: checkContent("/up.bin"), after: removePath("/up.bin"),
			yardstick: func(b *bench) (float64, error) { return writeRate(b.dir, b.size) }},
		{goal: goal{name: "propfind", title: "PROPFIND of the folder, named props", unit: "ms", less: true, against: "nginx", reach: 1.0, next: 2.0},
			needs: tree, measure: listing(namedProps), check: checkListing(namedProps)},
		{goal: goal{name: "allprop", title: "PROPFIND of the folder, allprop", unit: "ms", less: true, against: "nginx", reach: 1.0, next: 2.0},
			needs: tree, measure: listing(allProps), check: checkListing(allProps)},
		{goal: goal{name: "propmem", title: "... peak memory above idle", unit: "MiB", less: true, reach: 8, next: 8},
			needs: tree, measure: listingMemory},
		{goal: goal{name: "copy1g", title: "COPY the big file", unit: "ms", less: true, reach: 10, next: 2},
			needs: bigFile, measure: copyBig, check: checkContent("/copy.bin"), after: removePath("/copy.bin")},
		{goal: goal{name: "copydir", title: "COPY the folder", unit: "ms", less: true, against: "lighttpd", reach: 1.0, next: 3.0},
			needs: tree, measure: copyTree, check: checkCopy},
		{goal: goal{name: "movedir", title: "MOVE the folder", unit: "ms", less: true, reach: 10, next: 2}, needs: tree, measure: moveTree},
		{goal: goal{name: "deldir", title: "DELETE the folder", unit: "ms", less: true, reach: 10, next: 2}, needs: tree, measure: deleteTree},
	}
}

// getLoad measures GETs of one small file, or of random ranges of the big one.
func getLoad(conns int, ranges bool) func(*bench, *server, *meter, int) (sample, error) {
	return func(b *bench, s *server, m *meter, _ int) (sample, error) {
		l := load{Method: "GET", Target: smallPath, Conns: conns, For: b.secs}
		if ranges {
			l.Target, l.Blocks = bigPath, int(b.size/pattern.Block)
		}
		return runLoad(b, s, m, l)
	}
}

// putLoad measures PUTs into a folder that is new in every round. The folders
// stay until the run ends: ext4 passes over inodes deleted in the last minutes
// one by one when it creates files, which would slow the rows that follow.
func putLoad(name string, conns, ring int) func(*bench, *server, *meter, int) (sample, error) {
	return func(b *bench, s *server, m *meter, round int) (sample, error) {
		dir := putDir(name, round)
		if err := s.mkcol(dir); err != nil {
			return sample{}, err
		}
		return runLoad(b, s, m, load{Method: "PUT", Target: dir + "f", Ring: ring, Conns: conns, For: b.secs})
	}
}

func putDir(name string, round int) string { return fmt.Sprintf("/%s-%d/", name, round) }

func runLoad(b *bench, s *server, m *meter, l load) (sample, error) {
	if err := m.begin(); err != nil {
		return sample{}, err
	}
	r, err := b.gen.run(s.site.addr(), l)
	if err != nil {
		return sample{}, err
	}
	out, err := m.end()
	out.Requests, out.Errors, out.P99 = r.Requests, r.Errors, r.P99
	out.Value = float64(r.Requests) / r.Elapsed.Seconds()
	return out, err
}

// checkPuts reads files that the first round must have written. wrk renders
// some requests that it never sends, so the first few names may be missing.
func checkPuts(name string) func(*bench, *server) error {
	return func(_ *bench, s *server) error {
		for i := 5; i < 25; i++ {
			if err := s.expect(fmt.Sprintf("%sf0-%d", putDir(name, 0), i), smallBody); err != nil {
				return err
			}
		}
		return nil
	}
}

func removePath(path string) func(*bench, *server) error {
	return func(_ *bench, s *server) error { return s.remove(path) }
}

// timed runs one request between begin and end; its value is milliseconds.
func timed(m *meter, op func() error) (sample, error) {
	if err := m.begin(); err != nil {
		return sample{}, err
	}
	if err := op(); err != nil {
		return sample{}, err
	}
	out, err := m.end()
	out.Value, out.Requests = float64(out.Elapsed.Microseconds())/1000, 1
	return out, err
}

// rate turns a sample of one transfer of n bytes into MiB/s.
func rate(out sample, err error, n int64) (sample, error) {
	out.Value = mib(n) / out.Elapsed.Seconds()
	return out, err
}

func getBig(b *bench, s *server, m *meter, _ int) (sample, error) {
	out, err := timed(m, func() error {
		r, err := s.do(&httpwire.Request{Method: "GET", Path: bigPath}, nil)
		if err == nil && r.Size != b.size {
			err = fmt.Errorf("GET %s: %d bytes, want %d", bigPath, r.Size, b.size)
		}
		return err
	})
	return rate(out, err, b.size)
}

func putBig(b *bench, s *server, m *meter, _ int) (sample, error) {
	if err := s.remove("/up.bin"); err != nil {
		return sample{}, err
	}
	out, err := timed(m, func() error { return s.upload("/up.bin", b.size) })
	return rate(out, err, b.size)
}

func copyBig(_ *bench, s *server, m *meter, _ int) (sample, error) {
	if err := s.remove("/copy.bin"); err != nil {
		return sample{}, err
	}
	return timed(m, func() error { return s.transfer("COPY", bigPath, "/copy.bin") })
}

// checkContent reads a file of the big file's content and compares all of it.
func checkContent(path string) func(*bench, *server) error {
	return func(b *bench, s *server) error {
		var c pattern.Checker
		if _, err := s.do(&httpwire.Request{Method: "GET", Path: path}, &c); err != nil {
			return err
		}
		return c.Done(b.size)
	}
}

// checkRanges reads some ranges of the big file, its first and last block too.
func checkRanges(b *bench, s *server) error {
	last := b.size/pattern.Block - 1
	for _, block := range []int64{0, 1, last / 3, last / 2, last} {
		var got bytes.Buffer
		off := block * pattern.Block
		r, err := s.do(&httpwire.Request{Method: "GET", Path: bigPath,
			Header: []string{fmt.Sprintf("Range: bytes=%d-%d", off, off+pattern.Block-1)}}, &got)
		if err != nil {
			return err
		}
		if r.Status != 206 || !bytes.Equal(got.Bytes(), pattern.At(off, pattern.Block)) {
			return fmt.Errorf("range at %d: status %d and %d bytes that are not the file's", off, r.Status, got.Len())
		}
	}
	return nil
}

func copyTree(_ *bench, s *server, m *meter, _ int) (sample, error) {
	if err := s.remove("/copied/"); err != nil {
		return sample{}, err
	}
	return timed(m, func() error { return s.transfer("COPY", treePath, "/copied/") })
}

func checkCopy(b *bench, s *server) error {
	if err := s.checkEntries(b, "/copied/", namedProps); err != nil {
		return err
	}
	for i := 0; i < b.entries; i += 1 + b.entries/20 {
		if err := s.expect("/copied/"+entryName(i), entryBody); err != nil {
			return err
		}
	}
	return nil
}

// moveTree moves the folder there and back, and times the first of the two.
func moveTree(b *bench, s *server, m *meter, round int) (sample, error) {
	const moved = "/moved/"
	out, err := timed(m, func() error { return s.transfer("MOVE", treePath, moved) })
	if err != nil {
		return out, err
	}
	if round == 0 {
		err = errors.Join(s.checkEntries(b, moved, namedProps), s.absent(treePath+entryName(0)))
	}
	return out, errors.Join(err, s.transfer("MOVE", moved, treePath))
}

func deleteTree(_ *bench, s *server, m *meter, _ int) (sample, error) {
	const doomed = "/copied/"
	if err := errors.Join(s.remove(doomed), s.transfer("COPY", treePath, doomed)); err != nil {
		return sample{}, err
	}
	out, err := timed(m, func() error {
		_, err := s.do(&httpwire.Request{Method: "DELETE", Path: doomed}, nil)
		return err
	})
	return out, errors.Join(err, s.absent(doomed+entryName(0)))
}
