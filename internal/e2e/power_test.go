package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

// powerCuts is how many cuts a test makes: ENGRAMFS_CUTS, or 300 in the long form
// and 6 in the short one.
func powerCuts(t *testing.T) int {
	t.Helper()
	v := os.Getenv("ENGRAMFS_CUTS")
	if v == "" && long() {
		return 300
	}
	if v == "" {
		return 6
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 2 {
		t.Fatalf("ENGRAMFS_CUTS=%q is no count of cuts", v)
	}
	return n
}

// TestPowerCutOnADisk cuts the power of the data folder's disk at random instants
// while programs write through the mount and clients over WebDAV. What was
// acknowledged over WebDAV or synced through the mount must be there, nothing that was
// removed may be back, and every move happened or did not. In the long form the
// server has 100,000 files besides.
func TestPowerCutOnADisk(t *testing.T) {
	for _, kind := range []string{"xfs", "ext4"} {
		t.Run(kind, func(t *testing.T) { cutPower(t, kind, powerCuts(t)/2) })
	}
}

func cutPower(t *testing.T, kind string, cuts int) {
	seed := fsxSeed(t)
	rng := rand.New(rand.NewPCG(seed, 5))
	p := newPowerLoad(t, kind, seed)
	var restarts []time.Duration
	for cut := range cuts {
		restarts = append(restarts, p.cut(t, time.Duration(5+rng.IntN(296))*time.Millisecond, 0))
		if cut%checkEvery == 0 {
			p.m.Stop()
			mustBeClean(t, p.m.Server)
			p.m.Restart()
		}
		if err := p.verify(); err != nil {
			t.Fatalf("cut %d (seed %d): %v", cut, seed, err)
		}
	}
	p.m.mustBeSound()
	p.report(t, kind, restarts)
}

// TestPowerCutControl shows that the cuts cut and that a loss would be seen: what
// nobody has synced must be gone, and a disk that forgets what it has acknowledged
// for a while must be found out.
func TestPowerCutControl(t *testing.T) {
	p := newPowerLoad(t, "xfs", fsxSeed(t))
	unsynced := p.m.Path("unsynced")
	if err := os.WriteFile(unsynced, Content(1, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	p.cut(t, 0, 0)
	if b, err := os.ReadFile(unsynced); err == nil && bytes.Equal(b, Content(1, 100_000)) {
		t.Fatal("content that nobody has synced has survived: the cut has cut nothing")
	}
	if err := p.verify(); err != nil {
		t.Fatal(err)
	}
	p.cut(t, 100*time.Millisecond, 300*time.Millisecond)
	err := p.verify()
	if err == nil {
		t.Fatal("the disk forgot 300 ms of acknowledged changes, and nobody has noticed")
	}
	t.Logf("power cut control: what was not synced is gone; a disk that lies about 300 ms of flushes is found out: %.150s", err)
}

// powerLoad is a load on a server whose disk can lose power.
type powerLoad struct {
	*killLoad
	disk    *Disk
	planted int
}

func newPowerLoad(t *testing.T, kind string, seed uint64) *powerLoad {
	t.Helper()
	p := &powerLoad{disk: NewDisk(t, kind)}
	p.killLoad = newKillLoad(t, seed, Options{Binary: engramfs, Data: filepath.Join(p.disk.Dir, "data")})
	if long() {
		p.planted = 100_000
		createAll(t, p.m.Server, layout{name: "/many", files: p.planted, perFolder: 1000})
	}
	return p
}

// cut loads the server for a while, cuts the power, and starts it again. It
// returns how long the server took until it was ready. What the disk gets in the
// time of lie is acknowledged, and forgotten.
func (p *powerLoad) cut(t *testing.T, after, lie time.Duration) time.Duration {
	t.Helper()
	loaded := make(chan error, 1)
	go func() { loaded <- p.run() }()
	time.Sleep(after)
	var image string
	if lie > 0 {
		image = p.disk.Snapshot()
		time.Sleep(lie)
	} else {
		if err := p.m.freeze(); err != nil {
			t.Fatal(err)
		}
		image = p.disk.Snapshot()
	}
	p.m.Kill()
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}
	p.m.detach() // the mount, so that nothing of it is on the disk any more
	p.disk.Boot(image)
	begin := time.Now()
	p.m.Restart()
	return time.Since(begin)
}

// report fails the test unless the cuts have lost something that was not synced: a
// cut that loses nothing tests nothing.
func (p *powerLoad) report(t *testing.T, kind string, restarts []time.Duration) {
	t.Helper()
	var acked, synced, undone, dav, landed, unknown int
	for _, w := range p.files {
		acked, synced, undone = acked+w.acked, synced+w.synced, undone+w.undone
	}
	for _, c := range p.clients {
		dav, landed, unknown = dav+c.acked, landed+c.landed, unknown+c.unknown
	}
	if undone == 0 && len(restarts) >= 20 || synced == 0 || dav == 0 {
		t.Errorf("%d operations undone, %d syncs, %d requests acknowledged: the cuts have cut nothing", undone, synced, dav)
	}
	slices.Sort(restarts)
	worst := restarts[len(restarts)-1]
	if p.planted > 0 && restarts[len(restarts)/2] > time.Second {
		t.Errorf("restart takes %v with %d files, want less than 1 s", restarts[len(restarts)/2], p.planted)
	}
	fmt.Printf("power cuts (%s in a cloned image): %d cuts, %d WebDAV operations and %d syncs of %d operations through the mount acknowledged, 0 lost, 0 removed ones back, 0 half moves, check clean; %d unsynced operations lost, as they may; %d of %d without an answer took effect; restart with %d files median %v, worst %v\n",
		kind, len(restarts), dav, synced, acked, undone, landed, unknown, p.planted,
		restarts[len(restarts)/2].Round(time.Millisecond), worst.Round(time.Millisecond))
}

// TestRestartWithManyFiles measures how long a server that was killed takes until it
// is ready again: 100,000 files in the long form.
func TestRestartWithManyFiles(t *testing.T) {
	n := 20_000
	if long() {
		n = 100_000
	}
	s := start(t)
	createAll(t, s, layout{name: "/many", files: n, perFolder: 1000})
	var took []time.Duration
	for range 5 {
		s.Kill()
		begin := time.Now()
		s.Restart()
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	if took[2] > time.Second {
		t.Errorf("restart with %d files takes %v, want less than 1 s", n, took)
	}
	fmt.Printf("restart after kill -9 with %d files: median of 5 %v, worst %v\n", n, took[2].Round(time.Millisecond), took[4].Round(time.Millisecond))
}
