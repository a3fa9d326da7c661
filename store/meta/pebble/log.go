package pebble

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// logger hands Pebble's messages to slog.
type logger struct {
	log    *slog.Logger
	fence  *fence
	fatals atomic.Int64
}

var _ pebbledb.Logger = (*logger)(nil)

func (l *logger) Infof(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("pebble", "message", fmt.Sprintf(format, args...))
	}
}

func (l *logger) Errorf(format string, args ...any) {
	l.log.Error("pebble error", "message", fmt.Sprintf(format, args...))
}

// Fatalf is called when Pebble cannot go on writing; it expects the process to
// end. Instead the engine becomes read-only and the caller goes on: the fence
// keeps it from the disk. Since the fence hides failed writes from Pebble, what
// arrives here is a broken assumption of Pebble itself, so the stack is logged.
func (l *logger) Fatalf(format string, args ...any) {
	l.fatals.Add(1)
	message := fmt.Sprintf(format, args...)
	l.log.Error("pebble cannot go on", "message", message, "stack", string(debug.Stack()))
	l.fence.freeze(errors.New(message))
}

// events counts and logs what an operator has to know.
type events struct {
	log    *slog.Logger
	fence  *fence
	stalls atomic.Int64
}

func (e *events) listener() *pebbledb.EventListener {
	return &pebbledb.EventListener{
		BackgroundError: func(err error) {
			if e.fence.failed() != nil {
				e.log.Debug("background work failed on a read-only engine", "error", err)
				return
			}
			e.log.Error("background work failed", "error", err)
		},
		DataCorruption: func(info pebbledb.DataCorruptionInfo) {
			e.log.Error("metadata file is damaged", "path", info.Path, "bounds", info.Bounds.String(),
				"error", info.Details)
		},
		WriteStallBegin: func(info pebbledb.WriteStallBeginInfo) {
			e.stalls.Add(1)
			e.log.Info("writes wait for background work", "reason", info.Reason)
		},
		FlushEnd: func(info pebbledb.FlushInfo) {
			e.log.Debug("flushed", "info", info.String())
		},
		CompactionEnd: func(info pebbledb.CompactionInfo) {
			e.log.Debug("compacted", "info", info.String())
		},
	}
}

// diskSlow reports a disk operation that does not return. Pebble calls it again
// while the operation lasts.
func (e *events) diskSlow(info vfs.DiskSlowInfo) {
	e.log.Warn("disk is slow", "path", info.Path, "operation", info.OpType.String(), "for", info.Duration)
}
