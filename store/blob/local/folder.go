package local

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"engramfs/store/blob"
)

// folder is one of the 256. It is made when the first blob comes, since making
// all of them takes a good part of a second.
type folder struct {
	path string
	root *groupSync // of the backend's own folder

	opening sync.Mutex // held while f is being set
	f       atomic.Pointer[os.File]

	syncs groupSync // of this folder

	// mu guards the fields below.
	mu sync.Mutex

	// created holds the blobs whose name may not be durable yet, each with the
	// number of its creation: deleting and creating it again makes a new one.
	created map[blob.ID]uint64
	serial  uint64
	// failed holds the blobs of which a sync has failed.
	failed map[blob.ID]error
}

func newFolder(path string, root *groupSync) *folder {
	d := &folder{path: path, root: root, created: map[blob.ID]uint64{}, failed: map[blob.ID]error{}}
	d.syncs.init(func() error { return d.f.Load().Sync() })
	return d
}

// open returns the descriptor, which stays open until close. Without create a
// missing folder is fs.ErrNotExist; with create it is made, and is durable
// before anything is put into it. The caller is inside Backend.use.
func (d *folder) open(create bool) (*os.File, error) {
	if f := d.f.Load(); f != nil {
		return f, nil
	}
	d.opening.Lock()
	defer d.opening.Unlock()
	if f := d.f.Load(); f != nil {
		return f, nil
	}
	f, err := os.Open(d.path)
	if create && errors.Is(err, fs.ErrNotExist) {
		if err := d.mkdir(); err != nil {
			return nil, err
		}
		f, err = os.Open(d.path)
	}
	if err != nil {
		return nil, err
	}
	d.f.Store(f)
	return f, nil
}

func (d *folder) mkdir() error {
	if err := os.Mkdir(d.path, folderPerm); err != nil {
		return err
	}
	err := d.root.sync()
	if err != nil {
		err = errors.Join(err, os.Remove(d.path)) // it must not be found and used
	}
	return err
}

// close is called when no call uses the folder.
func (d *folder) close() error {
	if f := d.f.Load(); f != nil {
		return f.Close()
	}
	return nil
}

// markCreated notes that the name of id needs a sync of the folder.
func (d *folder) markCreated(id blob.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serial++
	d.created[id] = d.serial
}

// forget drops what is known about a blob that does not exist.
func (d *folder) forget(id blob.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.created, id)
	delete(d.failed, id)
}

// unsynced returns the number of the creation whose name is not durable yet.
func (d *folder) unsynced(id blob.ID) (serial uint64, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	serial, ok = d.created[id]
	return serial, ok
}

func (d *folder) setSynced(id blob.ID, serial uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.created[id] == serial {
		delete(d.created, id)
	}
}

func (d *folder) failure(id blob.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed[id]
}

func (d *folder) setFailed(id blob.ID, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed[id] == nil {
		d.failed[id] = err
	}
}

// groupSync lets callers that arrive while an fsync is running share the next
// one: an fsync counts for a caller only if it began after the caller came.
type groupSync struct {
	fsync func() error

	// mu protects the fields below.
	mu      sync.Mutex
	cond    sync.Cond // an fsync has ended
	started uint64    // number of the last fsync that has begun
	ended   uint64    // number of the last fsync that has ended; <= started
	err     error     // of the first fsync that failed: none follows it
}

func (g *groupSync) init(fsync func() error) {
	g.fsync = fsync
	g.cond.L = &g.mu
}

// sync returns nil after an fsync that began after the call did.
func (g *groupSync) sync() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	want := g.started + 1
	for g.err == nil && g.ended < want {
		if g.started > g.ended {
			g.cond.Wait()
			continue
		}
		g.run()
	}
	return g.err
}

// run does one fsync. The caller holds mu, which is released meanwhile.
func (g *groupSync) run() {
	g.started++
	g.mu.Unlock()
	err := g.fsync()
	g.mu.Lock()
	g.ended = g.started
	g.err = err
	g.cond.Broadcast()
}
