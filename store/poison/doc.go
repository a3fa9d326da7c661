// Package poison provides read-write locks that know when a writer has died half-way.
//
// # Why
//
// A goroutine that panics inside a critical section leaves two things behind: the
// lock, and a value that is half changed. With a deferred Unlock the lock comes
// free, and the next goroutine works on the torn value as if nothing had happened.
// In a program that survives panics this is the normal case: net/http recovers
// every handler, and so do most routers, RPC servers and go-fuse. Rust's standard
// library poisons such a lock; Go's has nothing of the kind.
//
// A [Guarded] is a value behind a sync.RWMutex. Sections are closures, so no path
// can forget an unlock, and a section that ends by a panic or by runtime.Goexit is
// noticed while the lock is still held:
//
//	reg := poison.NewRegistry(poison.RegistryOptions{Logger: logger})
//	tree := poison.New(reg, "tree", poison.LockOptions{}, Tree{})
//
//	err := tree.Write("rename", func(t *Tree) error { return t.rename(a, b) })
//	// errors.Is(err, poison.ErrPoisoned): the section died, now or earlier
//
//	ev, err := tree.Read("lookup", func(t *Tree) { found = t.lookup(name) })
//	// ev != nil: found comes from recovered data; tell whoever gets it
//
//	err = tree.Reset(ev.Gen, poison.ResetOptions{}, func(old *Tree) (Tree, error) {
//		return loadAndValidate(old)
//	})
//
// # The rules
//
//		in a section        healthy lock                      poisoned lock
//		Write               runs                              refused: *Error, f does not run
//		  returns an error  returned unchanged, no poison     -
//		  returns Fatal     poisoned (invariant), *Error      -
//		  panics            poisoned (panic), *Error          -
//		  Goexit            poisoned (goexit), goroutine ends -
//		Read                runs                              runs on recovered data, returns the Event
//		  panics            goes on unchanged, no poison      becomes an *Error
//		Atomically          as Write, for all locks at once   refused if any lock is poisoned
//		Reset               ErrNotPoisoned                    rebuilds, validates, clears
//
//	  - A lock is poisoned before it is released, and poison is looked for with the
//	    lock held. Nobody slips in between.
//	  - The first cause wins. Later ones are counted.
//	  - An error does not poison: a section that returns one has undone its changes.
//	    A section that cannot undo returns [Fatal] of its error.
//	  - A panic becomes an error where the section was called, and the process lives. A
//	    panic value that is an error stays within reach of errors.Is and errors.As.
//	  - Whoever was refused knows that nothing happened ([Error].Refused); whoever
//	    died does not know how far it got.
//	  - A generation, unique in its registry, is published in one store with the event
//	    that it belongs to, and Reset demands it: nobody clears an event he has not
//	    seen. An error or a panic in the rebuild leaves the lock poisoned.
//
// What Rust does otherwise: there, reads of a poisoned lock fail too, so that all
// the world writes unwrap or into_inner; the flag has no cause, time or identity; and
// each lock is on its own.
//
// # Classes
//
// [Durable] follows the rules above. [Disposable] is for caches: emptied instead of
// poisoned. [FailClosed] is for what decides about others, such as a lock table or
// sessions: poisoned, it refuses reads too.
//
// # Several locks
//
// Taking locks one after the other, and checking each when its turn comes, tears
// what spans them: the first tables have changed when the last one refuses. One
// panic then makes every "cleanly refused" write another torn one. [Atomically] takes
// all locks first, in order, checks all, and only then runs the section; when that
// dies, all locks held for writing are poisoned before any is released.
//
// # Lock order
//
// Ascending rank; families of one rank in order of creation; within a family
// ascending id. Atomically sorts for itself. Sections may nest as long as they keep
// the order, and a write section must not begin inside a read section, unless it is
// on a Disposable lock. Builds with the tag race or lockdebug check this on every
// acquisition, for each goroutine alone, so that one goroutine finds a mistake which
// would need two to hang: a section that breaks a rule panics with an [*OrderError],
// which holds both stacks, before it waits. Other builds pay nothing.
//
// # Health and hooks
//
// A [Registry] lists the domain locks, made by [New], at all times, and the locks of
// a family ([NewIn]: one per inode, say) while they are poisoned or stuck; a healthy
// lock of a family costs it nothing. [Registry.Health] takes none of the locks it
// reports on. Hooks ([Registry.OnTransition]) run on their own goroutine behind a
// bounded queue, when the locks are free, and can neither block a section nor
// deadlock with one.
//
// [Registry.Watch] finds locks that one section has held for too long. It probes
// with TryRLock, so sections pay for it with one plain store, and tells a stuck
// lock from a busy one by a sequence number. Nothing can take a lock from a stuck
// holder; Reset says [ErrHeld], and a program whose lock is stuck past the hard limit
// should exit and start again.
//
// # What a section must not do
//
// Recover its own panic: the lock would never learn of it. Keep a pointer into the
// value past its end. Wait for a client, a channel or a callback while it holds
// a lock for writing. Start a goroutine that uses the value and outlives it.
//
// # What it cannot do
//
// Concurrent map writes, stack overflow, running out of memory, an unlock of an
// unlocked mutex and a panic on a goroutine that has no section end the whole process;
// no lock sees them. Poison marks data as suspect, and does not repair it: that is the
// rebuild's work, from a truth of its own.
//
// # Cost
//
// Measured by go test -bench Against on a shared 2-core AMD EPYC, Go 1.26, best of
// rounds that take turns with a bare RWMutex and deferred unlock: Read 13.5 ns against
// 12.0 ns (1.12x), Write 26.0 ns against 23.3 ns (1.12x), no allocation; the benchmark
// fails above 1.2x. Atomically over three locks takes about 260 ns and one allocation, a
// refusal 70 ns, a recovered read 140 ns, a poisoning with its stack and the
// reset after it 30 µs, a watchdog round over 100,000 locks 3 ms. A Guarded adds 56
// bytes to its value. Keeping the poison flag on a cache line of its own would add
// 128 bytes, and gained nothing that stands out of the noise on two cores (parallel reads
// 14 to 19 ns padded, 14 to 23 ns as it is, 18 to 34 ns for the bare RWMutex).
package poison
