package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"engramfs/store/storetest"
)

// davDoor is WebDAV as a storetest.FS.
type davDoor struct{ clients sync.Pool }

func newDAVDoor(connect func() *DAV) *davDoor {
	return &davDoor{sync.Pool{New: func() any { return connect() }}}
}

// do sends a request. A status that is not a success is an error.
func (d *davDoor) do(method, p string, header []string, body []byte) ([]byte, error) {
	c := d.clients.Get().(*DAV)
	defer d.clients.Put(c)
	r, got, err := c.Do(method, p, header, body)
	if err != nil {
		return nil, err
	}
	return got, davError(method, p, r.Status)
}

// davError returns what a status means.
func davError(method, p string, status int) error {
	switch {
	case status < 300 && status != 207, status == 207 && method == "PROPPATCH":
		return nil
	case status == 404, status == 409: // 409: the parent does not exist (RFC 4918 sections 9.3.1, 9.7.1, 9.8.5)
		return &fs.PathError{Op: method, Path: p, Err: fmt.Errorf("status %d: %w", status, fs.ErrNotExist)}
	case status == 405 && method == "MKCOL", status == 412:
		return &fs.PathError{Op: method, Path: p, Err: fmt.Errorf("status %d: %w", status, fs.ErrExist)}
	}
	return &fs.PathError{Op: method, Path: p, Err: fmt.Errorf("status %d", status)}
}

func (d *davDoor) ReadFile(p string) ([]byte, error) { return d.do("GET", p, nil, nil) }

func (d *davDoor) WriteFile(p string, content []byte) error {
	_, err := d.do("PUT", p, nil, content)
	return err
}

func (d *davDoor) Replace(p string, content []byte) error { return d.WriteFile(p, content) }

func (d *davDoor) Create(p string, content []byte) error {
	_, err := d.do("PUT", p, []string{"If-None-Match: *"}, content)
	return err
}

func (d *davDoor) Mkdir(p string) error {
	_, err := d.do("MKCOL", p, nil, nil)
	return err
}

func (d *davDoor) transfer(method, from, to string) error {
	c := d.clients.Get().(*DAV)
	defer d.clients.Put(c)
	r, err := c.Transfer(method, from, to)
	if err != nil {
		return err
	}
	return davError(method, from, r.Status)
}

func (d *davDoor) Rename(from, to string) error { return d.transfer("MOVE", from, to) }
func (d *davDoor) Copy(from, to string) error   { return d.transfer("COPY", from, to) }

func (d *davDoor) RemoveAll(p string) error {
	_, err := d.do("DELETE", p, nil, nil)
	return err
}

// entry finds a path in the listing of its parent: what the test knows of it.
func (d *davDoor) entry(p string) (Entry, error) {
	if _, err := d.do("HEAD", p, nil, nil); err != nil {
		return Entry{}, err
	}
	c := d.clients.Get().(*DAV)
	defer d.clients.Put(c)
	entries, err := c.List(path.Dir(p))
	for _, e := range entries {
		if e.Path == p {
			return e, nil
		}
	}
	return Entry{}, errors.Join(err, &fs.PathError{Op: "PROPFIND", Path: p, Err: fs.ErrNotExist})
}

func (d *davDoor) Stat(p string) (storetest.Entry, error) {
	e, err := d.entry(p)
	if err != nil {
		return storetest.Entry{}, err
	}
	return e.tested()
}

func (e *Entry) tested() (storetest.Entry, error) {
	t := storetest.Entry{Name: path.Base(e.Path), Dir: e.Dir}
	if e.Dir {
		return t, nil
	}
	var err error
	t.Size, err = strconv.ParseInt(e.Size, 10, 64)
	return t, err
}

func (d *davDoor) ReadDir(p string) ([]storetest.Entry, error) {
	c := d.clients.Get().(*DAV)
	defer d.clients.Put(c)
	entries, err := c.List(p)
	if err != nil {
		return nil, err
	}
	var out []storetest.Entry
	for _, e := range entries {
		t, err := e.tested()
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func (d *davDoor) SetNote(p, note string) error {
	c := d.clients.Get().(*DAV)
	defer d.clients.Put(c)
	status, err := c.Annotate(p, escapeXML(note))
	if err != nil {
		return err
	}
	return davError("PROPPATCH", p, status)
}

func (d *davDoor) Note(p string) (string, error) {
	e, err := d.entry(p)
	return e.Note, err
}

var xmlEscaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
var xmlUnescaper = strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&")

func escapeXML(s string) string   { return xmlEscaper.Replace(s) }
func unescapeXML(s string) string { return xmlUnescaper.Replace(s) }

// osDoor is a mounted folder as a storetest.FS.
type osDoor struct {
	root string
	n    atomic.Int64 // of temporary names
}

func (d *osDoor) at(p string) string { return filepath.Join(d.root, filepath.FromSlash(p)) }

func (d *osDoor) ReadFile(p string) ([]byte, error) { return os.ReadFile(d.at(p)) }

func (d *osDoor) WriteFile(p string, content []byte) error {
	return os.WriteFile(d.at(p), content, 0o600)
}

// Replace writes a file beside and renames it, as programs do.
func (d *osDoor) Replace(p string, content []byte) error {
	tmp := d.at(path.Join(path.Dir(p), fmt.Sprintf(".tmp-%d", d.n.Add(1))))
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, d.at(p))
}

func (d *osDoor) Create(p string, content []byte) error {
	f, err := os.OpenFile(d.at(p), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

func (d *osDoor) Mkdir(p string) error         { return os.Mkdir(d.at(p), 0o700) }
func (d *osDoor) Rename(from, to string) error { return os.Rename(d.at(from), d.at(to)) }

// Copy lets the kernel copy: io.Copy between files is copy_file_range(2).
func (d *osDoor) Copy(from, to string) error {
	in, err := os.Open(d.at(from))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(d.at(to))
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (d *osDoor) RemoveAll(p string) error { return os.RemoveAll(d.at(p)) }

func osEntry(info fs.FileInfo) storetest.Entry {
	return storetest.Entry{Name: info.Name(), Dir: info.IsDir(), Size: info.Size()}
}

func (d *osDoor) Stat(p string) (storetest.Entry, error) {
	info, err := os.Lstat(d.at(p))
	if err != nil {
		return storetest.Entry{}, err
	}
	return osEntry(info), nil
}

func (d *osDoor) ReadDir(p string) ([]storetest.Entry, error) {
	list, err := os.ReadDir(d.at(p))
	var out []storetest.Entry
	for _, e := range list {
		info, ierr := e.Info()
		if ierr != nil {
			return nil, ierr
		}
		out = append(out, osEntry(info))
	}
	return out, err
}

// SetNote sets the attribute behind the dead property. Its value is XML.
func (d *osDoor) SetNote(p, note string) error {
	return unix.Setxattr(d.at(p), storetest.NoteXattr, []byte(escapeXML(note)), 0)
}

func (d *osDoor) Note(p string) (string, error) {
	b := make([]byte, 1000)
	n, err := unix.Getxattr(d.at(p), storetest.NoteXattr, b)
	if err == unix.ENODATA {
		return "", nil
	}
	if err != nil {
		return "", &fs.PathError{Op: "getxattr", Path: p, Err: err}
	}
	return unescapeXML(string(b[:n])), nil
}

// alternating is several doors that take turns: whatever one does, the others see.
type alternating struct {
	doors []storetest.FS
	n     atomic.Int64
}

func (a *alternating) next() storetest.FS { return a.doors[a.n.Add(1)%int64(len(a.doors))] }

func (a *alternating) ReadFile(p string) ([]byte, error)      { return a.next().ReadFile(p) }
func (a *alternating) WriteFile(p string, b []byte) error     { return a.next().WriteFile(p, b) }
func (a *alternating) Replace(p string, b []byte) error       { return a.next().Replace(p, b) }
func (a *alternating) Create(p string, b []byte) error        { return a.next().Create(p, b) }
func (a *alternating) Mkdir(p string) error                   { return a.next().Mkdir(p) }
func (a *alternating) Rename(from, to string) error           { return a.next().Rename(from, to) }
func (a *alternating) Copy(from, to string) error             { return a.next().Copy(from, to) }
func (a *alternating) RemoveAll(p string) error               { return a.next().RemoveAll(p) }
func (a *alternating) Stat(p string) (storetest.Entry, error) { return a.next().Stat(p) }
func (a *alternating) SetNote(p, note string) error           { return a.next().SetNote(p, note) }
func (a *alternating) Note(p string) (string, error)          { return a.next().Note(p) }

func (a *alternating) ReadDir(p string) ([]storetest.Entry, error) { return a.next().ReadDir(p) }
