package poison

// The hold word of a lock tells the watchdog which op is in a write section:
//
//	| sequence number of the write section | active | op index (opBits) |
//
// Only the holder of the write lock changes it. A word that did not change
// between two looks is the same section still.
const (
	holdActive = 1 << opBits
	holdNext   = 1 << (opBits + 1)
)

// enter notes that op now holds c for writing. The caller has just locked c.mu.
func (c *core) enter(op uintptr) {
	c.setHold(c.hold&^(holdNext-1) + holdNext | holdActive | op)
}

// leave notes the end of the write section. The caller is about to unlock c.mu.
func (c *core) leave() { c.setHold(c.hold &^ holdActive) }

// writeOp returns the op in a write section of the word w, if there is one.
func writeOp(w uintptr) (op string, active bool) {
	if w&holdActive == 0 {
		return "", false
	}
	return opName(w & (holdActive - 1)), true
}
