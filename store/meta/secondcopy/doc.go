// Package secondcopy keeps a second copy of what a metadata engine holds, which
// shares no byte on the disk with the engine: when the engine is lost, or refuses
// to open because a byte of it is bad, the copy fills a new one.
//
// Engine wraps a meta.Engine. Every update that was applied is appended, before
// Update returns, to a log in a folder of its own: so updates that depend on each other
// are in order. The log is written and synced in the background, by default every
// second; what is acknowledged meanwhile is not in the copy yet. The copy never fails or
// delays an update: when it cannot keep up, or its disk fails, it says so (see
// Status), and begins anew with a snapshot as soon as it can.
//
// # Files
//
//	log-<n>       the updates since snapshot n, in order
//	snapshot-<n>  all keys and values, read from one snapshot of the engine
//
// n grows by one with each log. To restore is to read the newest snapshot n and then
// the logs from n on, without what a snapshot says it has. An update may be in both all
// the same, which changes nothing: a log has whole values. (Only counters are added up
// twice; whoever restores counts anew.)
//
// A file is a header and frames, each with a marker, a number and a CRC32C. After bad
// bytes the next good frame is found by its marker, so a bad block loses only itself,
// and the two newest snapshots are kept with their logs: the older one fills the holes
// of the newer one.
//
// When a run ends in order, the log ends with what Options.StateKey had then. If
// the engine still has that at the next start, the log goes on; otherwise something
// may be missing in it, and a new snapshot is taken at once, in the background. A folder
// belongs to one engine at a time: the file named lock is held with flock(2).
//
// # Locks
//
//	Engine.mu guards the buffer and the state; plain mutex, no foreign code inside
package secondcopy
