package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"engramfs/store/meta"
	"engramfs/store/poison"
)

// HistoryEntry is one event in the life of the store's locks. Entries are kept
// in the engine, so that a restart does not hide what happened.
type HistoryEntry struct {
	Seq  uint64 `json:"seq"`
	Kind string `json:"kind"` // "poisoned", "reset", SalvageEvent, or "damaged" of a file, which has no lock and no generation
	Lock string `json:"lock"`
	Gen  uint64 `json:"gen"`
	Path string `json:"path,omitempty"`
	// Source is who asked for a reset; empty for a poisoning.
	Source ResetSource   `json:"source,omitempty"`
	At     time.Time     `json:"at"`
	Event  *poison.Event `json:"event,omitempty"`
	// Report is what a reset did; nil for a poisoning.
	Report *ResetReport `json:"report,omitempty"`
	// Damage is the first that was found of a file.
	Damage *Damage `json:"damage,omitempty"`
}

// maxHistory bounds the entries kept; the oldest go first.
const maxHistory = 10_000

// history writes entries. It runs on the registry's own goroutine and on that
// of a reset, and takes no lock of the store.
type history struct {
	s        *Store
	seq      atomic.Uint64
	salvaged time.Time // of the newest SalvageEvent; immutable after newHistory
}

// salvageMark is part of every SalvageEvent, and of hardly anything else.
var salvageMark = []byte(`"kind":"` + SalvageEvent + `"`)

func newHistory(s *Store) (*history, error) {
	h := &history{s: s}
	err := s.engine.Scan([]byte{keyHistory}, []byte{keyHistory + 1}, func(key, value []byte) bool {
		h.seq.Store(uint64(inoOfKey(key)))
		var e HistoryEntry
		if bytes.Contains(value, salvageMark) && json.Unmarshal(value, &e) == nil && e.Kind == SalvageEvent {
			h.salvaged = e.At
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("load the history: %w", err)
	}
	return h, nil
}

// record keeps a transition. Resets are recorded by ResetLock, with their report.
func (h *history) record(t poison.Transition) {
	if t.Kind != poison.TransitionPoisoned {
		return
	}
	path := t.Event.Detail
	if ino, ok := inoOfLock(t.Lock); ok && path == "" { // the registry was asking somebody else
		path, _ = h.s.pathOf(ino)
	}
	h.add(HistoryEntry{Kind: "poisoned", Lock: t.Lock, Gen: t.Gen, Path: path, At: t.At, Event: t.Event})
}

func (h *history) add(e HistoryEntry) {
	e.Seq = h.seq.Add(1)
	b, err := json.Marshal(e)
	if err == nil {
		err = h.s.engine.Update(func(tx meta.Txn) error {
			tx.Put(seqKey(keyHistory, e.Seq), b)
			if g := h.s.registry.Generation(); g >= h.s.poisonGen {
				tx.Put(factPoison, binary.BigEndian.AppendUint64(nil, g))
			}
			if e.Seq > maxHistory {
				tx.Delete(seqKey(keyHistory, e.Seq-maxHistory))
			}
			return nil
		})
	}
	if err == nil {
		err = h.s.engine.Sync()
	}
	if err != nil && !errors.Is(err, meta.ErrClosed) {
		h.s.log.Error("event not kept", "lock", e.Lock, "gen", e.Gen, "err", err)
	}
}

// generationStep is more generations of poison than one run of the server loses
// in a crash: those of events that were not yet kept.
const generationStep = 1000

// reserveGenerations returns the generation that poison starts after, so that
// none is ever given twice: a reset that names one from before a restart
// must never hit an event of after it.
func (s *Store) reserveGenerations() (uint64, error) {
	var g uint64
	b, err := s.engine.Get(factPoison)
	switch {
	case err == nil && len(b) == 8:
		g = binary.BigEndian.Uint64(b)
	case err == nil:
		return 0, fmt.Errorf("%w: generation of poison: %w", ErrDamaged, errShortRecord)
	case !errors.Is(err, meta.ErrNotFound):
		return 0, fmt.Errorf("load the generation of poison: %w", err)
	}
	s.poisonGen = g + generationStep
	if s.engine.Failed() != nil {
		return g, nil // nothing can be poisoned for long: a restart is needed
	}
	return g, s.engineError(s.engine.Update(func(tx meta.Txn) error {
		tx.Put(factPoison, binary.BigEndian.AppendUint64(nil, s.poisonGen))
		return nil
	}))
}

// SalvagedAt returns when the store's metadata was last made anew by Salvage, as far
// as the history goes back; zero: never.
func (s *Store) SalvagedAt() time.Time { return s.history.salvaged }

// History returns the last entries with a Seq below before (0: the last of all),
// newest first, at most limit of them.
func (s *Store) History(before uint64, limit int) ([]HistoryEntry, error) {
	last, end := s.history.seq.Load(), []byte{keyHistory + 1}
	if before > 0 && before <= last {
		last, end = before-1, seqKey(keyHistory, before)
	}
	// An entry that could not be written is a gap, so that one look may not do.
	for span := uint64(max(limit, 1)); ; span *= 2 {
		from := last + 1 - min(last+1, span)
		entries, err := s.historyBetween(seqKey(keyHistory, from), end)
		if len(entries) >= limit || from == 0 || err != nil {
			slices.Reverse(entries)
			return entries[:min(len(entries), limit)], err
		}
	}
}

func (s *Store) historyBetween(from, end []byte) ([]HistoryEntry, error) {
	var entries []HistoryEntry
	var bad error
	err := s.engine.Scan(from, end, func(_, value []byte) bool {
		var e HistoryEntry
		if err := json.Unmarshal(value, &e); err != nil {
			bad = fmt.Errorf("%w: history: %w", ErrDamaged, err)
			return true
		}
		entries = append(entries, e)
		return true
	})
	return entries, errors.Join(bad, err)
}
