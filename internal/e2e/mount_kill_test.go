package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestKillThroughTheMount kills the server again and again while programs write
// through the mount and clients over WebDAV, with the mount in use, and starts it
// again on the same mount point. Every other cycle runs without passthrough.
func TestKillThroughTheMount(t *testing.T) {
	cycles := 10
	if long() || os.Getenv("ENGRAMFS_KILLS") != "" {
		cycles = kills(t)
	}
	seed := fsxSeed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	k := newKillLoad(t, seed, Options{Binary: engramfs})
	args := k.m.args
	var restarts []time.Duration
	for cycle := range cycles {
		busy := k.occupy(t)
		loaded := make(chan error, 1)
		go func() { loaded <- k.run() }()
		time.Sleep(time.Duration(5+rng.IntN(296)) * time.Millisecond)
		k.m.Kill()
		if err := <-loaded; err != nil {
			t.Fatalf("cycle %d (seed %d): %v", cycle, seed, err)
		}
		if cycle%checkEvery == 0 {
			mustBeClean(t, k.m.Server)
		}
		k.m.args = args
		if cycle%2 == 0 {
			k.m.args = append(slices.Clone(args), "--mount-integrity", "strict")
		}
		begin := time.Now()
		k.m.Restart()
		restarts = append(restarts, time.Since(begin))
		if n, err := mountsAt(k.m.Point); err != nil || n != 1 {
			t.Fatalf("cycle %d: %d file systems on the mount point, %v: the old one was not replaced", cycle, n, err)
		}
		if err := k.verify(); err != nil {
			t.Fatalf("cycle %d (seed %d): %v", cycle, seed, err)
		}
		busy()
	}
	k.m.Restart()
	if err := k.verify(); err != nil {
		t.Fatalf("after a clean restart (seed %d): %v", seed, err)
	}
	k.m.mustBeSound()
	k.report(t, restarts)
}

// killLoad is what works on the server while it is killed.
type killLoad struct {
	m       *Mounted
	files   []*crashWorker
	clients []*writer
}

func newKillLoad(t *testing.T, seed uint64, o Options) *killLoad {
	t.Helper()
	k := &killLoad{m: StartMounted(t, o)}
	for i := range killWriters {
		w := &crashWorker{id: i, dir: k.m.Path(fmt.Sprintf("w%d", i)), rng: rand.New(rand.NewPCG(seed, uint64(i)+1)), states: []crashState{{}}}
		if err := os.Mkdir(w.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		k.files = append(k.files, w)
	}
	d := NewDAV(k.m.Addr, "", time.Minute)
	defer d.Close()
	c := &writer{author: author{root: "/c0", rng: rand.New(rand.NewPCG(seed, 100))}, state: model{}}
	must(t, d, "MKCOL", c.root, nil, nil, 201) // durable, and with it the folders before
	k.clients = append(k.clients, c)
	return k
}

// occupy starts a program whose working directory and standard input are on the
// mount, so that the mount is in use when the server dies. The end ends it.
func (k *killLoad) occupy(t *testing.T) (end func()) {
	t.Helper()
	held := k.m.Path("held")
	f, err := os.OpenFile(held, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("sleep", "600")
	cmd.Dir, cmd.Stdin = k.m.Point, f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() { cmd.Process.Kill(); cmd.Wait() })
	t.Cleanup(end)
	return end
}

// run works until the server is gone.
func (k *killLoad) run() error {
	errs := make(chan error, len(k.files)+len(k.clients))
	for _, w := range k.files {
		go func() { errs <- w.work() }()
	}
	for _, c := range k.clients {
		go func() { errs <- c.work(k.m.Addr) }()
	}
	var first error
	for range cap(errs) {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}

func (k *killLoad) verify() error {
	for _, w := range k.files {
		if err := w.verify(); err != nil {
			return err
		}
	}
	for _, c := range k.clients {
		if err := c.verify(k.m.Addr); err != nil {
			return err
		}
	}
	return nil
}

func (k *killLoad) report(t *testing.T, restarts []time.Duration) {
	t.Helper()
	var acked, synced, unknown, undone int
	for _, w := range k.files {
		acked, synced, unknown, undone = acked+w.acked, synced+w.synced, unknown+w.unknown, undone+w.undone
	}
	if synced == 0 || unknown == 0 {
		t.Errorf("%d syncs and %d operations cut off: the load never ran into a kill", synced, unknown)
	}
	slices.Sort(restarts)
	t.Logf("kill -9 through the mount: %d cycles with the old mount in use, %d operations and %d syncs acknowledged, nothing synced lost, 0 torn, check clean; %d unsynced operations undone; beside it %d WebDAV operations; restart median %v, worst %v",
		len(restarts), acked, synced, undone, k.clients[0].acked, restarts[len(restarts)/2].Round(time.Millisecond), restarts[len(restarts)-1].Round(time.Millisecond))
}

// TestCrashWorkerKnowsLegalFromIllegal checks the checker on a local folder: the
// state it has made is legal, and what a crash must not leave is not.
func TestCrashWorkerKnowsLegalFromIllegal(t *testing.T) {
	w := &crashWorker{dir: t.TempDir(), rng: rand.New(rand.NewPCG(1, 2)), states: []crashState{{}}}
	for range 500 {
		if err := w.operation(); err != nil {
			t.Fatal(err)
		}
	}
	w.release()
	if err := w.syncDir(); err != nil {
		t.Fatal(err)
	}
	files, _ := w.now().list()
	victim, other := w.now()[files[0]], w.now()[files[1]]
	victim.blocks, victim.may = 2, [][]uint64{{7}, {8}}
	victim.settle()
	write := func(b ...[]byte) {
		t.Helper()
		if err := os.WriteFile(w.path(files[0]), slices.Concat(b...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := [][]byte{victim.content(0, 7), victim.content(1, 8)}
	write(good...)
	if err := w.verify(); err != nil {
		t.Fatalf("what was synced: %v", err)
	}
	for name, blocks := range map[string][][]byte{
		"OldBlock":  {victim.content(0, 6), good[1]},
		"Zeros":     {victim.content(0, 0), good[1]},
		"OtherFile": {other.content(0, 7), good[1]},
		"Misplaced": {good[0], victim.content(0, 8)},
		"Shorter":   {good[0]},
		"Longer":    {good[0], good[1], victim.content(2, 0)},
		"OddSize":   {good[0], good[1], []byte("x")},
	} {
		if write(blocks...); w.verify() == nil {
			t.Errorf("%s passes", name)
		}
	}
	write(good...)
	lost := w.path(files[0])
	if err := os.Rename(lost, lost+"-x"); err != nil {
		t.Fatal(err)
	}
	if w.verify() == nil {
		t.Error("a wrong name passes")
	}
	if err := os.Rename(lost+"-x", filepath.Join(w.dir, files[0])); err != nil {
		t.Fatal(err)
	}
	if err := w.verify(); err != nil {
		t.Errorf("restored: %v", err)
	}
}
