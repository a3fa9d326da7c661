package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"engramfs/store"
	"engramfs/store/blob/local"
	"engramfs/store/meta"
	"engramfs/store/meta/pebble"
)

// checkCmd checks and repairs a data folder that is not served.
type checkCmd struct {
	Data    string `default:"engramfs-data" placeholder:"DIR" help:"Data folder (${default})."`
	Content bool   `env:"-" help:"Also read all content against its checksums."`
	Repair  bool   `env:"-" help:"Mend what can be mended. Nothing is deleted: what has lost its name goes to /lost+found."`
	DryRun  bool   `env:"-" help:"With --repair: print what it would do, and change nothing."`
	JSON    bool   `name:"json" env:"-" help:"Print the result as JSON."`
}

// checkReport is what a check prints as JSON. The lists are never null.
type checkReport struct {
	// Problems are what is wrong; after a repair, what it has left.
	Problems []store.Finding    `json:"problems"`
	Repaired []store.RepairStep `json:"repaired"` // with DryRun: what would be
	DryRun   bool               `json:"dry_run"`
	// Truncated: there are more problems than these.
	Truncated bool `json:"truncated"`
}

// checkCache is the size of the metadata engine's cache, in bytes: a check reads
// nearly everything once.
const checkCache = 8 << 20

// checkMemory is the soft limit of the process, as --memory-limit is for serve. A check
// of a million inodes needs about half of it.
const checkMemory = 224 << 20

// Run checks, and repairs if it is to. What keeps it from that is exit code 2, so that
// 1 means that there are problems.
func (c *checkCmd) Run(p *process) error {
	if c.DryRun && !c.Repair {
		return usage(errors.New("--dry-run goes with --repair"))
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(checkMemory)
	}
	ctx, stop := signal.NotifyContext(p.ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	report, err := c.run(ctx)
	if err == nil {
		err = c.print(p.stdout, report)
	}
	switch {
	case err != nil:
		return usage(err)
	case len(report.Problems) > 0, c.DryRun && len(report.Repaired) > 0:
		return errFound
	}
	return nil
}

func (c *checkCmd) run(ctx context.Context) (report *checkReport, err error) {
	if err := c.mayRepair(); err != nil {
		return nil, err
	}
	lock, err := lockStopped(c.Data)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // nothing was written to it
	engine, closeEngine, err := c.openEngine(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeEngine()) }()
	blobs, err := local.Open(filepath.Join(c.Data, blobsDir), local.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, blobs.Close()) }()

	report = &checkReport{Problems: []store.Finding{}, Repaired: []store.RepairStep{}, DryRun: c.DryRun}
	if c.Repair {
		o := store.RepairOptions{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
		done, err := store.Repair(ctx, engine, blobs, o)
		if !c.DryRun && len(done.Done) > 0 {
			_, kept := keepReport(c.Data, repairPrefix, &done) // with the records that it has taken out
			err = errors.Join(err, kept)
		}
		if err != nil {
			return nil, err
		}
		report.Problems, report.Repaired = append(report.Problems, done.Left...), append(report.Repaired, done.Done...)
	}
	if c.Repair && !c.Content {
		return report, nil
	}
	found, err := store.CheckEngine(ctx, engine, blobs, store.CheckOptions{Content: c.Content})
	for _, f := range found {
		if !c.Repair || f.Code == store.ContentDamaged { // else the repair has it
			report.Problems = append(report.Problems, f)
		}
	}
	report.Truncated = len(found) == store.MaxFindings
	return report, err
}

// mayRepair refuses to repair what is another user's: it would leave files there that
// the server, which runs as that user, cannot open.
func (c *checkCmd) mayRepair() error {
	fi, err := os.Stat(c.Data)
	if err != nil || !c.Repair || c.DryRun {
		return nil // lockStopped says what is wrong
	}
	st, me := fi.Sys().(*syscall.Stat_t), os.Geteuid()
	if st.Uid == uint32(me) {
		return nil
	}
	return hint(fmt.Errorf("%s belongs to user %d, and this is user %d", c.Data, st.Uid, me),
		fmt.Sprintf("repair it as its owner, for example with setpriv --reuid=%d --regid=%d --clear-groups", st.Uid, st.Gid))
}

// openEngine opens the metadata so that nothing of it changes, unless it is to be
// repaired. A dry run repairs a copy.
func (c *checkCmd) openEngine(ctx context.Context) (engine meta.Engine, done func() error, err error) {
	dir, remove := filepath.Join(c.Data, metaDir), func() error { return nil }
	if c.DryRun {
		temp, err := os.MkdirTemp("", "engramfs-check-")
		if err != nil {
			return nil, nil, err
		}
		remove = func() error { return os.RemoveAll(temp) }
		copied := filepath.Join(temp, metaDir)
		if err := copyMeta(ctx, dir, copied); err != nil {
			err = hint(fmt.Errorf("copy %s: %w", dir, err), "set TMPDIR to a folder with room for a copy of it")
			return nil, nil, errors.Join(err, remove())
		}
		dir = copied
	}
	db, err := pebble.Open(dir, pebble.Options{ReadOnly: !c.Repair, CacheSize: checkCache})
	if err != nil {
		return nil, nil, errors.Join(refusedHint(err), remove())
	}
	done = func() error {
		err := db.Close()
		if !c.Repair && errors.Is(err, meta.ErrReadOnly) {
			err = nil // as it was opened
		}
		return errors.Join(err, remove())
	}
	if err := db.Verify(ctx); err != nil {
		return nil, nil, errors.Join(refusedHint(err), done())
	}
	return db, done, nil
}

// refusedHint says what helps an engine that cannot be read.
func refusedHint(err error) error {
	if meta.IsCorrupt(err) || errors.Is(err, meta.ErrNotExist) {
		return hint(err, "the next start of the server makes new metadata of the second copy and of the content, and keeps the old")
	}
	return err
}

// lockStopped takes the lock of a data folder, so that no server starts meanwhile. A
// folder that has lost its lock file gets a new one: that alone is written.
func lockStopped(data string) (io.Closer, error) {
	d := &dataFolder{dir: data}
	if _, err := os.Stat(d.path(versionFile)); err != nil {
		return nil, hint(fmt.Errorf("no data folder: %w", err), "name the folder of a server with --data")
	}
	if err := d.checkVersion(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(d.path(lockFile), os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := d.flock(f); err != nil {
		f.Close()
		return nil, hint(err, "stop the server, or ask it with engramfs admin check")
	}
	return f, nil
}

// copyMeta copies the files of the metadata engine, which has no folders.
func copyMeta(ctx context.Context, from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !e.Type().IsRegular() {
			continue
		}
		if err := copyRegular(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyRegular(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() // it was only read
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

const repairPrefix = "repair-" // report of a repair, as JSON

// print writes the report, a line for each problem and each change.
func (c *checkCmd) print(w io.Writer, r *checkReport) error {
	if c.JSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	var b strings.Builder
	repaired, more := "repaired", ""
	if r.DryRun {
		repaired = "would repair"
	}
	if r.Truncated {
		more = " or more"
	}
	for _, s := range r.Repaired {
		fmt.Fprintf(&b, "%s: %s\n", repaired, visible(s.String()))
	}
	for _, f := range r.Problems {
		fmt.Fprintf(&b, "problem: %s\n", visible(f.String()))
	}
	fmt.Fprintf(&b, "%d problems%s, %d repairs\n", len(r.Problems), more, len(r.Repaired))
	_, err := io.WriteString(w, b.String())
	return err
}
