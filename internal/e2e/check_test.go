package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"engramfs/store"
	"engramfs/store/blob/local"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
)

// checkTime bounds a check; a machine that does much else may need some minutes.
const checkTime = 10 * time.Minute

// checkData opens the data folder of a server that is not running, as its next
// start would, and returns every invariant that the store violates.
func checkData(data string) (problems []store.Finding, err error) {
	engine, err := pebble.Open(filepath.Join(data, "meta"), pebble.Options{})
	if err != nil {
		return nil, err
	}
	blobs, err := local.Open(filepath.Join(data, "blobs"), local.Options{})
	if err != nil {
		engine.Close()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTime)
	defer cancel()
	boot, err := engine.Get([]byte("Mboot")) // a kill is no power cut: what was not synced is there
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return nil, errors.Join(err, engine.Close(), blobs.Close())
	}
	s, err := store.Open(ctx, store.Options{Meta: engine, Blobs: blobs, Boot: string(boot)})
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := s.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close: %w", cerr)
		}
	}()
	if err := s.Quiesce(ctx); err != nil {
		return nil, err
	}
	return s.Check(ctx, store.CheckOptions{})
}

// mustBeSound stops the server and fails the test unless its log has no error
// and its data passes the check.
func (m *Mounted) mustBeSound() {
	m.t.Helper()
	m.Stop()
	lines, err := m.logErrors()
	if err != nil {
		m.t.Error(err)
	}
	for _, line := range lines[:min(len(lines), 5)] {
		m.t.Errorf("the server logged an error: %.1000s", line)
	}
	problems, err := checkData(m.Data)
	if err != nil {
		m.t.Errorf("check: %v", err)
	}
	for _, p := range problems[:min(len(problems), 20)] {
		m.t.Errorf("check: %s", p)
	}
}
