package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"sync"
	"time"

	"engramfs/internal/bench/httpwire"
	"engramfs/internal/bench/pattern"
)

// fixture is content that rows share and that is made once for each server.
type fixture string

const (
	smallFile fixture = "small file"
	bigFile   fixture = "big file"
	tree      fixture = "folder"

	smallPath = "/4k.bin"
	bigPath   = "/big.bin"
	treePath  = "/d/"
)

// entryBody is the content of each file of the folder.
var entryBody = []byte("sixteen bytes...")

func entryName(i int) string { return fmt.Sprintf("file-%05d.txt", i) }

// prepare makes the fixture unless the server has it, and reads it back.
func (s *server) prepare(b *bench, f fixture) error {
	if s.ready[f] {
		return nil
	}
	var err error
	switch f {
	case smallFile:
		if err = s.put(smallPath, smallBody); err == nil {
			err = s.expect(smallPath, smallBody)
		}
	case bigFile:
		if err = s.upload(bigPath, b.size); err == nil {
			err = checkContent(bigPath)(b, s)
		}
	case tree:
		if err = s.plant(b.entries); err == nil {
			err = s.checkEntries(b, treePath, namedProps)
		}
	}
	if err != nil {
		return fmt.Errorf("prepare %s: %w", f, err)
	}
	s.ready[f] = true
	return nil
}

func (s *server) put(path string, body []byte) error {
	_, err := s.do(&httpwire.Request{Method: "PUT", Path: path, Body: body}, nil)
	return err
}

// upload streams a file of the pattern's content.
func (s *server) upload(path string, size int64) error {
	_, err := s.do(&httpwire.Request{Method: "PUT", Path: path, Stream: pattern.Source{Size: size}, Length: size}, nil)
	return err
}

// expect returns an error unless the file has this content.
func (s *server) expect(path string, want []byte) error {
	var got bytes.Buffer
	if _, err := s.do(&httpwire.Request{Method: "GET", Path: path}, &got); err != nil {
		return err
	}
	if !bytes.Equal(got.Bytes(), want) {
		return fmt.Errorf("GET %s: %d bytes that are not the content written (%d bytes)", path, got.Len(), len(want))
	}
	return nil
}

// absent returns an error unless the path answers 404.
func (s *server) absent(path string) error {
	r, err := s.do(&httpwire.Request{Method: "GET", Path: path}, nil)
	if r == nil || r.Status != 404 {
		return fmt.Errorf("GET %s after it went away: want status 404, got error %w", path, err)
	}
	return nil
}

// plant makes the folder of n small files, over four connections.
func (s *server) plant(n int) error {
	if err := s.mkcol(treePath); err != nil {
		return err
	}
	const conns = 4
	var wg sync.WaitGroup
	errs := make(chan error, conns)
	for k := range conns {
		wg.Go(func() {
			c := httpwire.NewClient(s.site.addr(), opTimeout)
			defer c.Close()
			for i := k; i < n; i += conns {
				r, err := c.Do(&httpwire.Request{Method: "PUT", Path: treePath + entryName(i), Body: entryBody}, nil)
				if err == nil && !r.OK() {
					err = fmt.Errorf("status %d", r.Status)
				}
				if err != nil {
					errs <- fmt.Errorf("PUT %s: %w", entryName(i), err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs // nil when closed and empty
}

// namedProps asks for what file managers show of an entry; allProps for
// everything, as older clients do.
const (
	namedProps = `<?xml version="1.0"?><D:propfind xmlns:D="DAV:"><D:prop><D:displayname/><D:getcontentlength/><D:getlastmodified/><D:creationdate/><D:getcontenttype/><D:resourcetype/><D:getetag/></D:prop></D:propfind>`
	allProps   = `<?xml version="1.0"?><D:propfind xmlns:D="DAV:"><D:allprop/></D:propfind>`
)

func (s *server) propfind(path, body string, sink io.Writer) error {
	_, err := s.do(&httpwire.Request{Method: "PROPFIND", Path: path, Body: []byte(body),
		Header: []string{"Depth: 1", "Content-Type: application/xml"}}, sink)
	return err
}

// listing measures a Depth 1 PROPFIND of the folder: the median of five.
func listing(body string) func(*bench, *server, *meter, int) (sample, error) {
	return func(_ *bench, s *server, m *meter, _ int) (sample, error) {
		if err := m.begin(); err != nil {
			return sample{}, err
		}
		var ms []float64
		for range 5 {
			t0 := time.Now()
			if err := s.propfind(treePath, body, nil); err != nil {
				return sample{}, err
			}
			ms = append(ms, float64(time.Since(t0).Microseconds())/1000)
		}
		out, err := m.end()
		out.Value, out.Requests = median(ms), int64(len(ms))
		return out, err
	}
}

// listingMemory measures how far the listings lift the resident memory of a
// server that has just started. Before the clock starts it has answered other
// requests, so that code which is read in for any answer does not count.
func listingMemory(b *bench, s *server, m *meter, _ int) (sample, error) {
	if err := s.restart(context.Background()); err != nil {
		return sample{}, err
	}
	for _, path := range []string{treePath + entryName(0), treePath + entryName(b.entries-1)} {
		if err := s.expect(path, entryBody); err != nil {
			return sample{}, err
		}
	}
	if err := m.begin(); err != nil {
		return sample{}, err
	}
	for range 3 {
		for _, body := range []string{namedProps, allProps} {
			if err := s.propfind(treePath, body, nil); err != nil {
				return sample{}, err
			}
		}
	}
	out, err := m.end()
	out.Value, out.Requests = mib(out.Above), 6
	return out, err
}

func checkListing(body string) func(*bench, *server) error {
	return func(b *bench, s *server) error { return s.checkEntries(b, treePath, body) }
}

var (
	hrefEntry = regexp.MustCompile(`href>[^<]*/(file-[0-9]{5}\.txt)</`)
	length16  = regexp.MustCompile(`getcontentlength[^<>]*>16<`)
)

// checkEntries lists a folder and returns an error unless every file of the
// tree is in the answer once, with its size.
func (s *server) checkEntries(b *bench, path, body string) error {
	var got bytes.Buffer
	if err := s.propfind(path, body, &got); err != nil {
		return err
	}
	seen := map[string]bool{}
	all := hrefEntry.FindAllSubmatch(got.Bytes(), -1)
	for _, m := range all {
		seen[string(m[1])] = true
	}
	sizes := len(length16.FindAll(got.Bytes(), -1))
	if len(seen) != b.entries || len(all) != b.entries || sizes != b.entries {
		return fmt.Errorf("PROPFIND %s: %d entries, %d of them different, %d sizes right, want %d of each",
			path, len(all), len(seen), sizes, b.entries)
	}
	return nil
}
