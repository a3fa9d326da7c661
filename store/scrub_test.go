package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"engramfs/store"
	"engramfs/store/blob"
	"engramfs/store/meta/pebble"
	"engramfs/store/storetest"
)

const block = 64 << 10

// fast is a scrub that nobody has to wait for.
var fast = store.ScrubOptions{Every: -1, Rate: 1 << 40}

func scrub(t testing.TB, s *store.Store) store.ScrubRun {
	t.Helper()
	run, err := s.Scrub(ctx, "test")
	if err != nil {
		t.Fatalf("Scrub: %v", err)
	}
	return run
}

// TestScrubFindsEveryFlip flips one bit in every file, of every kind and size, at
// its beginning, in its middle and at its end.
func TestScrubFindsEveryFlip(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{Scrub: fast})
	type flip struct {
		ino  store.Ino
		path string
		data []byte
		off  int64
	}
	var flips []flip
	for _, size := range []int{17_000, block, block + 1, 200_000, 1<<20 + block + 5} {
		for _, off := range []int{0, size / 2, size - 1} {
			for kind, make := range map[string]func(testing.TB, *store.Store, string, []byte) store.Attr{"put": put, "written": sealedFile} {
				path, data := fmt.Sprintf("/%s-%d-%d", kind, size, off), pattern(size, byte(off))
				a := make(t, s, path, data)
				flips = append(flips, flip{a.Ino, path, data, int64(off)})
			}
		}
	}
	sparse := pattern(3<<20, 1)
	clear(sparse[100_000 : 2<<20])
	for _, off := range []int{50_000, 1 << 20, 3<<20 - 1} { // in the middle there is a hole
		path := fmt.Sprintf("/sparse-%d", off)
		put(t, s, path, pattern(100_000, 1)[:100_000])
		h := open(t, s, path, true)
		write(t, h, sparse[:100_000], 0)
		write(t, h, sparse[2<<20:], 2<<20)
		if err := errors.Join(h.Close(), s.Quiesce(ctx)); err != nil {
			t.Fatal(err)
		}
		flips = append(flips, flip{h.Ino(), path, sparse, int64(off)})
	}
	if run := scrub(t, s); run.Result != "clean" || run.Files != int64(len(flips)) || run.Done != run.Total {
		t.Fatalf("before: %+v", run)
	}
	for _, f := range flips {
		blobs.Flip(s.BlobOf(f.ino), f.off)
	}
	run := scrub(t, s)
	if run.Result != "damaged" || run.Damaged != int64(len(flips)) || run.CorruptBlocks != int64(len(flips)) || run.Skipped != 0 {
		t.Errorf("run: %+v", run)
	}
	found := make(map[store.Ino]store.Damage)
	for _, d := range s.Damaged() {
		found[d.Ino] = d
	}
	for _, f := range flips {
		bad := f.off / block * block
		end := min(bad+block, int64(len(f.data)))
		if d := found[f.ino]; d.Offset != bad || d.Length != end-bad || d.Path != f.path || d.Source != store.DamageByScrub || d.Kind != store.DamagedContent {
			t.Errorf("%s: found %+v, want block at %d", f.path, d, bad)
		}
		if !s.DamagedAt(f.ino, f.off, 1) || s.DamagedAt(f.ino, end, 1<<30) || bad > 0 && s.DamagedAt(f.ino, 0, bad) {
			t.Errorf("%s: DamagedAt is wrong", f.path)
		}
		readAround(t, s, f.ino, f.data, bad, end)
	}
	for _, f := range flips {
		blobs.Flip(s.BlobOf(f.ino), f.off)
	}
	if run := scrub(t, s); run.Result != "clean" || len(s.Damaged()) != 0 {
		t.Errorf("after the bits were put right: %+v, damaged: %+v", run, s.Damaged())
	}
}

// readAround reads all blocks of a file of which the one from bad to end is damaged.
func readAround(t *testing.T, s *store.Store, ino store.Ino, data []byte, bad, end int64) {
	t.Helper()
	c, err := s.OpenContent(ctx, ino)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var got bytes.Buffer
	if n, err := c.WriteRange(&got, 0, c.Size()); !errors.Is(err, store.ErrDamaged) || n != bad || !bytes.Equal(got.Bytes(), data[:bad]) {
		t.Errorf("inode %d: read %d bytes before the damage at %d, %v", ino, n, bad, err)
	}
	for off := int64(0); off < c.Size(); off += block {
		got.Reset()
		stop := min(off+block, c.Size())
		_, err := c.WriteRange(&got, off, stop-off)
		switch {
		case off == bad && (!errors.Is(err, store.ErrDamaged) || got.Len() > 0):
			t.Errorf("inode %d: %d bytes of the bad block, %v", ino, got.Len(), err)
		case off != bad && (err != nil || !bytes.Equal(got.Bytes(), data[off:stop])):
			t.Errorf("inode %d: good block at %d: %v", ino, off, err)
		}
	}
}

// TestDamageSurvivesRestart restarts a store that knows of damage, three times.
func TestDamageSurvivesRestart(t *testing.T) {
	m := boot(t, vfs.NewCrashableMem(), storetest.NewMemBlobs())
	for _, path := range []string{"/kept", "/replaced", "/removed", "/moved", "/missing"} {
		put(t, m.s, path, pattern(300_000, 1))
	}
	for _, path := range []string{"/kept", "/replaced", "/removed", "/moved"} {
		m.blobs.Flip(m.s.BlobOf(lookup(m.s, path).Ino), 150_000)
	}
	if err := m.blobs.Delete(m.s.BlobOf(lookup(m.s, "/missing").Ino)); err != nil {
		t.Fatal(err)
	}
	if run := scrub(t, m.s); run.Damaged != 4 || run.Missing != 1 {
		t.Errorf("run: %+v", run)
	}
	m = m.killed(true)
	want := map[string]int64{"/kept": 131072, "/replaced": 131072, "/removed": 131072, "/moved": 131072, "/missing": 0}
	wantDamaged(t, m.s, want)
	events, err := m.s.History(0, 100)
	if err != nil || len(events) != 5 || events[0].Kind != "damaged" || events[0].Damage == nil {
		t.Errorf("history: %+v, %v", events, err)
	}

	put(t, m.s, "/replaced", pattern(300_000, 2))
	put(t, m.s, "/missing", pattern(300_000, 2))
	if err := unlink(m.s, "/removed"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.s.Rename(ctx, store.RootIno, "moved", store.RootIno, "elsewhere", store.RenameOptions{}); err != nil {
		t.Fatal(err)
	}
	want = map[string]int64{"/kept": 131072, "/elsewhere": 131072}
	wantDamaged(t, m.s, want)
	m = m.killed(true)
	wantDamaged(t, m.s, want)
	if runs := m.s.ScrubStatus().Runs; len(runs) != 1 || runs[0].Result != "damaged" || runs[0].By != "test" {
		t.Errorf("runs: %+v", runs)
	}
	m.s.Overwritten(lookup(m.s, "/kept").Ino, 131072, block)
	delete(want, "/kept")
	wantDamaged(t, m.s, want)
	m = m.killed(true)
	wantDamaged(t, m.s, want)
	if err := m.s.Close(); err != nil {
		t.Error(err)
	}
}

func wantDamaged(t *testing.T, s *store.Store, want map[string]int64) {
	t.Helper()
	got := s.Damaged()
	for _, d := range got {
		if off, ok := want[d.Path]; !ok || off != d.Offset {
			t.Errorf("damaged: %+v", d)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d places are damaged, want %d", len(got), len(want))
	}
}

// tracedBlobs counts how often each piece of each blob is read.
type tracedBlobs struct {
	*storetest.MemBlobs

	mu    sync.Mutex
	reads map[string]int
	at    int           // the read that waits
	here  chan struct{} // closed when it does
	goOn  chan struct{} // closed to let it go on
}

func (b *tracedBlobs) Open(id blob.ID, write bool) (blob.File, error) {
	f, err := b.MemBlobs.Open(id, write)
	return &tracedFile{f, id, b}, err
}

type tracedFile struct {
	blob.File
	id blob.ID
	b  *tracedBlobs
}

func (f *tracedFile) ReadAt(p []byte, off int64) (int, error) {
	f.b.mu.Lock()
	f.b.reads[fmt.Sprint(f.id, off)]++
	stop := len(f.b.reads) == f.b.at
	f.b.mu.Unlock()
	if stop {
		close(f.b.here)
		<-f.b.goOn
	}
	return f.File.ReadAt(p, off)
}

func (f *tracedFile) Stat() (blob.Stat, error) { return f.File.(blob.Stater).Stat() }

func openTraced(t *testing.T, mem *vfs.MemFS, b blob.Backend) *store.Store {
	t.Helper()
	db, err := pebble.Open("meta", pebble.Options{Create: true, FS: mem, CacheSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(ctx, store.Options{Meta: db, Blobs: b, Reserve: -1, Scrub: fast})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestScrubGoesOnAfterCrash cuts the power in the middle of a scrub. The next start
// goes on with it, and reads nothing twice that was read before the cursor was kept.
func TestScrubGoesOnAfterCrash(t *testing.T) {
	const files, fileSize, step, cutAt = 8, 5 << 20, 4 << 20, 30 // in pieces of 1 MiB, in the sixth file
	mem := vfs.NewCrashableMem()
	b := &tracedBlobs{MemBlobs: storetest.NewMemBlobs(), reads: map[string]int{}, at: cutAt, here: make(chan struct{}), goOn: make(chan struct{})}
	s := openTraced(t, mem, b)
	s.SetScrubStep(step)
	for i := range files {
		put(t, s, fmt.Sprintf("/%d", i), pattern(fileSize, byte(i)))
	}
	ended := make(chan error)
	go func() {
		_, err := s.Scrub(ctx, "test")
		ended <- err
	}()
	<-b.here
	if _, err := s.Scrub(ctx, "somebody else"); !errors.Is(err, store.ErrScrubbing) {
		t.Errorf("a second scrub: %v", err)
	}
	if st := s.ScrubStatus(); st.Running == nil || st.Running.Done != (cutAt-1)<<20 || st.Running.Total != files*fileSize {
		t.Errorf("status: %+v", st)
	}
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	image := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: rand.New(rand.NewPCG(1, 1))})
	after := &tracedBlobs{MemBlobs: b.MemBlobs.Snapshot(), reads: map[string]int{}}
	close(b.goOn)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = openTraced(t, image, after)
	defer s.Close()
	eventually(t, "the end of the scrub", func() bool { return len(s.ScrubStatus().Runs) == 1 })
	run := s.ScrubStatus().Runs[0]
	if run.Result != "clean" || run.Resumed != 1 || run.Files != files || run.Bytes < files*fileSize || run.By != "test" {
		t.Errorf("run: %+v", run)
	}
	for i := range files {
		d, _ := digestsOf(t, s, fmt.Sprintf("/%d", i))
		wantDigests(t, "after the crash", d, pattern(fileSize, byte(i)), store.SHA256, store.SHA1, store.MD5)
	}
	after.mu.Lock()
	defer after.mu.Unlock()
	pieces := files * fileSize >> 20
	if again := len(after.reads) - (pieces - (cutAt - 1)); again < 0 || again > step>>20 {
		t.Errorf("%d pieces were read after the crash, of %d that were left and at most %d again", len(after.reads), pieces-(cutAt-1), step>>20)
	}
	for where, n := range after.reads {
		if n > 1 {
			t.Errorf("%s was read %d times", where, n)
		}
	}
}

// TestScrubStops stops a scrub and starts it again.
func TestScrubStops(t *testing.T) {
	b := &tracedBlobs{MemBlobs: storetest.NewMemBlobs(), reads: map[string]int{}, at: 7, here: make(chan struct{}), goOn: make(chan struct{})}
	s := openTraced(t, vfs.NewMem(), b)
	defer s.Close()
	for i := range 4 {
		put(t, s, fmt.Sprintf("/%d", i), pattern(4<<20, byte(i)))
	}
	if s.StopScrub() {
		t.Error("there was a scrub to stop")
	}
	ended := make(chan store.ScrubRun)
	go func() {
		run, _ := s.Scrub(ctx, "one")
		ended <- run
	}()
	<-b.here
	if !s.StopScrub() {
		t.Error("there was no scrub to stop")
	}
	close(b.goOn)
	if run := <-ended; run.Result != "stopped" || run.Done >= run.Total || run.Done == 0 {
		t.Errorf("stopped: %+v", run)
	}
	time.Sleep(10 * time.Millisecond)
	if s.ScrubStatus().Running != nil {
		t.Error("it went on by itself")
	}
	run := scrub(t, s)
	if run.Result != "clean" || run.Bytes != 16<<20 || run.Files != 4 || run.Resumed != 1 {
		t.Errorf("gone on: %+v", run)
	}
	for where, n := range b.reads {
		if n > 1 {
			t.Errorf("%s was read %d times", where, n)
		}
	}
	if runs := s.ScrubStatus().Runs; len(runs) != 2 || runs[0].Result != "clean" || runs[1].Result != "stopped" {
		t.Errorf("runs: %+v", runs)
	}
}

// TestScrubLeavesLateWritesAlone scrubs what was written past the store, and what
// is being written.
func TestScrubLeavesLateWritesAlone(t *testing.T) {
	s, blobs := storetest.NewWith(t, store.Options{Scrub: fast})
	late := sealedFile(t, s, "/late", pattern(200_000, 1))
	if err := s.Lent(late.Ino); err != nil {
		t.Fatal(err)
	}
	blobs.Scribble(s.BlobOf(late.Ino), []byte("written late"), 100_000)
	put(t, s, "/open", pattern(200_000, 2))
	write(t, open(t, s, "/open", true), []byte("now"), 0)
	if run := scrub(t, s); run.Result != "clean" || run.Skipped != 2 {
		t.Errorf("run: %+v", run)
	}
	if d := s.Damaged(); len(d) != 0 {
		t.Errorf("damaged: %+v", d)
	}
	if err := s.Quiesce(ctx); err != nil {
		t.Fatal(err)
	}
	if run := scrub(t, s); run.Result != "clean" || !s.Sealed(late.Ino) {
		t.Errorf("after it was sealed again: %+v", run)
	}
}

// TestScrubReadsTheDisk flips a bit of a file of the local backend, past the page
// cache of nobody: all sizes of the last piece are read.
func TestScrubReadsTheDisk(t *testing.T) {
	s := localStore(t, store.Options{Scrub: fast})
	for i, size := range []int{17_000, 4096 * 5, 1 << 20, 1<<20 + 1, 3<<20 - 7} {
		put(t, s, fmt.Sprintf("/%d", i), pattern(size, byte(i)))
	}
	if run := scrub(t, s); run.Result != "clean" || run.Files != 5 || run.Bytes != run.Total {
		t.Errorf("run: %+v", run)
	}
}

// BenchmarkRead reads a file of 64 MiB from the page cache, with its checksums
// verified and not, for nobody and for a client on this machine.
func BenchmarkRead(b *testing.B) {
	s := localStore(b, store.Options{Scrub: fast})
	const size = 64 << 20
	a := put(b, s, "/f", pattern(size, 1))
	for to, w := range map[string]io.Writer{"nobody": io.Discard, "socket": discardingSocket(b)} {
		for _, verified := range []bool{true, false} {
			b.Run(fmt.Sprintf("to=%s/verified=%t", to, verified), func(b *testing.B) {
				c, err := s.OpenContent(ctx, a.Ino)
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				if !verified {
					c.Unverified()
				}
				b.SetBytes(size)
				for b.Loop() {
					if _, err := c.WriteRange(w, 0, size); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// discardingSocket returns a TCP connection over loopback whose other end throws away what comes.
func discardingSocket(b *testing.B) io.Writer {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	w, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	r, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 1<<20)
		for {
			if _, err := r.Read(buf); err != nil {
				return
			}
		}
	})
	b.Cleanup(func() {
		if err := errors.Join(w.Close(), r.Close()); err != nil {
			b.Error(err)
		}
		done.Wait()
	})
	return w
}

// TestScrubFindsMissingInlineContent scrubs twice: it stays on the list.
func TestScrubFindsMissingInlineContent(t *testing.T) {
	s, _ := storetest.NewWith(t, store.Options{Scrub: fast})
	a := put(t, s, "/f", pattern(1000, 1))
	if err := s.LoseInline(a.Ino); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if run := scrub(t, s); run.Missing != 1 {
			t.Errorf("run: %+v", run)
		}
		if d := s.Damaged(); len(d) != 1 || d[0].Kind != store.DamagedMissing {
			t.Errorf("damaged: %+v", d)
		}
	}
	put(t, s, "/f", pattern(1000, 1))
	if run := scrub(t, s); run.Missing != 0 || len(s.Damaged()) != 0 {
		t.Errorf("after it was written anew: %+v, damaged %+v", run, s.Damaged())
	}
}
