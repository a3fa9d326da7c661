package fuse

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"engramfs/store"
)

const (
	// notifyShards is the number of goroutines that talk to the kernel.
	notifyShards = 4
	// notifyLimit is how many notifications wait per shard before they are
	// replaced by one that drops everything.
	notifyLimit = 1 << 16
	// lagLimit is how old a notification may get before the log says so.
	lagLimit = 5 * time.Second
	// retryFirst and retryLast bound the pauses before the kernel is told again of
	// an inode that it was about to learn.
	retryFirst = time.Millisecond
	retryLast  = 512 * time.Millisecond
)

// kernelCache is the part of the server that drops what the kernel has cached.
type kernelCache interface {
	EntryNotify(parent uint64, name string) gofuse.Status
	InodeNotify(node uint64, off, length int64) gofuse.Status
}

// notifier tells the kernel which of the names and attributes that it caches
// were changed by somebody else.
//
// A notification can wait inside the kernel for requests that are being served:
// for those that look names up in the directory, for those that read the pages. So they
// are sent by goroutines of their own, which hold no lock, and no handler ever
// waits for them.
//
// Names are dropped with INVAL_ENTRY only: INVAL_DELETE would declare a directory
// dead that may just have moved. The attributes of the directory are dropped on
// their own, because the kernel forgets them with a name only if it knew the name.
//
// A reply that was read before the change may reach the kernel after the
// notification. Names are safe from that: INVAL_ENTRY waits for the directory's
// lock, which lookups hold. For an inode that the kernel knows, it drops replies to
// questions that are older than the notification. There remains the first reply
// that names an inode: the table knows the inode, the kernel does not. Then the
// kernel is told again, until either changes its mind.
type notifier struct {
	kernel kernelCache
	table  *table
	origin store.Origin
	log    *slog.Logger
	epoch  func() error // drops all names at once

	shards      [notifyShards]notifyQueue
	stopObserve func()
	quit        chan struct{}
	workers     sync.WaitGroup

	queued, skipped, sent, absent, retried, abandoned, overflows, failed atomic.Uint64
}

var _ store.Observer = (*notifier)(nil)

// NotifyStats counts what was done to keep the kernel's caches true.
type NotifyStats struct {
	Queued    uint64 // notifications that were needed
	Skipped   uint64 // changes that the kernel had nothing cached about
	Sent      uint64 // notifications that the kernel took
	Absent    uint64 // notifications of what it had dropped meanwhile
	Retried   uint64 // repeated, because the kernel was about to learn of the inode
	Abandoned uint64 // given up after about a second of that
	Overflows uint64 // times that everything was dropped because too much waited
	Failed    uint64 // refused by the kernel
	Waiting   int    // not yet sent
	Lag       time.Duration
}

// newNotifier starts to follow the store's changes on behalf of fs. device is
// the connection's descriptor; it stays the caller's.
func newNotifier(kernel kernelCache, fs *fileSystem, device int) *notifier {
	n := &notifier{
		kernel: kernel, table: fs.table, origin: fs.origin, log: fs.log,
		epoch: func() error { return incrementEpoch(device) },
		quit:  make(chan struct{}),
	}
	n.run()
	n.stopObserve = fs.store.Observe(n)
	return n
}

// run starts the goroutines that send.
func (n *notifier) run() {
	for i := range n.shards {
		n.shards[i].init()
		n.workers.Go(func() { n.work(&n.shards[i]) })
	}
	n.workers.Go(n.watch)
}

// stop ends the notifier. What is still waiting is dropped: it is called when
// the mount has ended.
func (n *notifier) stop() {
	n.stopObserve()
	close(n.quit)
	n.workers.Wait()
	for i := range n.shards {
		n.shards[i].abandon()
	}
}

// Changed implements store.Observer.
func (n *notifier) Changed(e store.Event) {
	if e.Lost {
		n.overflow(&n.shards[0])
		return
	}
	if e.Origin == n.origin && n.origin != 0 {
		return // the kernel has asked for it
	}
	if e.Parent != 0 {
		if n.table.known(e.Parent) {
			n.enqueue(notice{ino: e.Parent, name: e.Name}, false)
			n.enqueue(notice{ino: e.Parent}, false)
		} else {
			n.skipped.Add(1)
		}
	}
	if e.Ino != 0 {
		if n.table.known(e.Ino) {
			n.enqueue(notice{ino: e.Ino}, e.Content)
		} else {
			n.skipped.Add(1)
		}
	}
}

// Settle implements store.Observer.
func (n *notifier) Settle(ctx context.Context) {
	for i := range n.shards {
		settled := n.shards[i].settled()
		if settled == nil {
			continue
		}
		select {
		case <-settled:
		case <-n.quit:
			return
		case <-ctx.Done():
			return
		}
	}
}

// shardOf keeps the notices of one directory on one goroutine: they would only
// wait for each other in the kernel.
func (n *notifier) shardOf(ino store.Ino) *notifyQueue { return &n.shards[ino%notifyShards] }

func (n *notifier) enqueue(what notice, content bool) {
	n.queued.Add(1)
	s := n.shardOf(what.ino)
	if !s.add(what, content, time.Now()) {
		n.overflow(s)
	}
}

// overflow gives up on single notices and has all that the kernel caches dropped.
func (n *notifier) overflow(s *notifyQueue) {
	n.overflows.Add(1)
	s.replace(time.Now())
}

// work sends the notices of a queue until the notifier is stopped.
func (n *notifier) work(q *notifyQueue) {
	for {
		what, w, ok := q.take(n.quit)
		switch {
		case !ok:
			return
		case n.sendSafe(what, w.content):
			q.done(w)
		case w.pause >= retryLast:
			n.abandoned.Add(1)
			q.done(w)
		default:
			n.retried.Add(1)
			w.pause = max(2*w.pause, retryFirst)
			q.again(what, w, time.Now())
		}
	}
}

// sendSafe is send, and lets a panic cost no more than the notice.
func (n *notifier) sendSafe(what notice, content bool) (sent bool) {
	defer func() {
		if v := recover(); v != nil {
			n.failed.Add(1)
			n.log.Error("cache notification panicked", "panic", v, "stack", string(debug.Stack()))
			sent = true
		}
	}()
	return n.send(what, content)
}

// send delivers one notice. It reports false if the kernel must be told again.
func (n *notifier) send(what notice, content bool) bool {
	if what == everything {
		n.dropAll()
		return true
	}
	if what.name != "" {
		n.count(n.kernel.EntryNotify(uint64(what.ino), what.name))
		return true
	}
	status := n.kernel.InodeNotify(uint64(what.ino), attributes(content), 0)
	if status == gofuse.ENOENT && what.ino != store.RootIno && n.table.known(what.ino) {
		return false
	}
	n.count(status)
	return true
}

// attributes returns the offset that makes INVAL_INODE drop the pages, too, or
// leave them.
func attributes(content bool) int64 {
	if content {
		return 0
	}
	return -1
}

func (n *notifier) count(status gofuse.Status) {
	switch status {
	case gofuse.OK:
		n.sent.Add(1)
	case gofuse.ENOENT:
		n.absent.Add(1)
	case gofuse.ENODEV, gofuse.EBADF, gofuse.Status(unix.ENOTCONN): // the mount has ended
	default:
		if n.failed.Add(1) == 1 {
			n.log.Error("kernel refuses a cache notification, the mount may show what is old until its timeouts", "err", status)
		}
	}
}

// dropAll makes the kernel ask anew for everything.
func (n *notifier) dropAll() {
	if err := n.epoch(); err != nil {
		n.log.Warn("too many changes at once, the mount may show old names until their timeout", "err", err)
	}
	n.count(n.kernel.InodeNotify(uint64(store.RootIno), 0, 0))
	n.table.each(func(ino store.Ino) {
		status := n.kernel.InodeNotify(uint64(ino), 0, 0)
		if status == gofuse.ENOENT { // it may be about to learn of it
			n.enqueue(notice{ino: ino}, true)
			return
		}
		n.count(status)
	})
}

// watch says in the log when notifications are late, and when they are not any more.
func (n *notifier) watch() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	late := false
	for {
		select {
		case <-n.quit:
			return
		case <-tick.C:
		}
		switch lag := n.lag(time.Now()); {
		case lag > lagLimit && !late:
			late = true
			n.log.Error("cache notifications wait in the kernel, the mount may show what is old", "lag", lag)
		case lag == 0 && late:
			late = false
			n.log.Info("cache notifications are delivered again")
		}
	}
}

func (n *notifier) lag(now time.Time) time.Duration {
	var lag time.Duration
	for i := range n.shards {
		lag = max(lag, n.shards[i].lag(now))
	}
	return lag
}

// Stats returns the counters.
func (n *notifier) Stats() NotifyStats {
	s := NotifyStats{
		Queued: n.queued.Load(), Skipped: n.skipped.Load(), Sent: n.sent.Load(), Absent: n.absent.Load(),
		Retried: n.retried.Load(), Abandoned: n.abandoned.Load(), Overflows: n.overflows.Load(), Failed: n.failed.Load(),
		Lag: n.lag(time.Now()),
	}
	for i := range n.shards {
		s.Waiting += n.shards[i].len()
	}
	return s
}
