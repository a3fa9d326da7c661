package main

import (
	"fmt"
	"time"

	"engramfs/store"
)

// scrubFlags say when and how fast all content is read against its checksums.
type scrubFlags struct {
	ScrubEvery time.Duration `default:"720h" placeholder:"TIME" help:"Time between two scrubs, which read all content against its checksums, give or take a fifth; 0: only when asked for (${default})."`
	ScrubRate  byteSize      `default:"20MiB" placeholder:"SIZE" help:"What a scrub reads in a second while others use the store; more while nobody does, less under load (${default})."`
}

func (f *scrubFlags) validate() error {
	switch {
	case f.ScrubEvery != 0 && f.ScrubEvery < time.Minute:
		return fmt.Errorf("--scrub-every %s: want at least 1m, or 0", f.ScrubEvery)
	case f.ScrubRate < 64<<10:
		return fmt.Errorf("--scrub-rate %s: want at least 64KiB", f.ScrubRate)
	}
	return nil
}

// options returns them as the store's.
func (f *scrubFlags) options() store.ScrubOptions {
	o := store.ScrubOptions{Every: f.ScrubEvery, Rate: int64(f.ScrubRate)}
	if o.Every == 0 {
		o.Every = -1 // the store's word for never; its 0 means the default
	}
	return o
}
