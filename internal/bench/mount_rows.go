package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"engramfs/internal/bench/fsload"
	"engramfs/internal/bench/pattern"
)

// mountRow is one line of the table of mounts.
type mountRow struct {
	goal
	// strict says that the mount that verifies every read takes part too.
	strict bool
	// cold says that nothing is cached when the clock starts; that needs root.
	cold bool
	// warm says that names and attributes were used before, but not just now.
	warm bool
	// programs are those the row cannot do without.
	programs []string
	// prepare makes what the row works on, measure has the clock, and check
	// verifies content after the first round.
	prepare func(context.Context, *mountBench, *subject, int) error
	measure func(context.Context, *mountBench, *subject, int) (sample, error)
	check   func(context.Context, *mountBench, *subject, int) error
}

// available returns why the row cannot be taken on this machine.
func (r mountRow) available() error {
	if r.cold && os.Geteuid() != 0 {
		return errors.New("only root may drop the page cache")
	}
	for _, program := range r.programs {
		if _, err := lookPath(program); err != nil {
			return fmt.Errorf("%s is not installed", program)
		}
	}
	return nil
}

// either is a goal against the better of the two mounts that only pass on what
// they are asked.
const either = "loopback|bindfs"

// mountRows has those that delete much at the end: ext4 passes over inodes
// deleted in the last minutes one by one when it creates files.
func mountRows() []mountRow {
	return []mountRow{
		{goal: goal{name: "create1", title: "create 4 KiB, 1 thread", unit: "/s", against: "loopback", reach: 3, next: 0.5, nextAgainst: "ext4"},
			strict: true, prepare: newFiles(1), measure: createFiles(1), check: checkFiles(1)},
		{goal: goal{name: "create4", title: "create 4 KiB, 4 threads", unit: "/s", against: "loopback", reach: 3, next: 0.5, nextAgainst: "ext4"},
			strict: true, prepare: newFiles(4), measure: createFiles(4), check: checkFiles(4)},
		{goal: goal{name: "stat1", title: "stat warm, 1 thread", unit: "/s", against: "loopback", reach: 5, next: 0.8, nextAgainst: "ext4"},
			strict: true, warm: true, prepare: warmFiles(1, "stat"), measure: onFiles(1, "stat")},
		{goal: goal{name: "stat4", title: "stat warm, 4 threads", unit: "/s", against: "loopback", reach: 5, next: 0.8, nextAgainst: "ext4"},
			strict: true, warm: true, prepare: warmFiles(4, "stat"), measure: onFiles(4, "stat")},
		{goal: goal{name: "statcold", title: "stat cold", unit: "/s"},
			strict: true, cold: true, prepare: someFiles(1), measure: onFiles(1, "stat")},
		{goal: goal{name: "readdir", title: "readdir warm, entries", unit: "/s"},
			strict: true, warm: true, prepare: warmFiles(1, "list"), measure: onFiles(1, "list")},
		{goal: goal{name: "readdircold", title: "readdir cold, entries", unit: "/s"},
			strict: true, cold: true, prepare: someFiles(1), measure: onFiles(1, "list")},
		{goal: goal{name: "open1", title: "open + read 4 KiB + close", unit: "/s", against: either, reach: 2, next: 4},
			strict: true, warm: true, prepare: warmFiles(1, "read"), measure: onFiles(1, "read")},
		{goal: goal{name: "open4", title: "open + read + close, 4 threads", unit: "/s", against: either, reach: 2, next: 4},
			strict: true, warm: true, prepare: warmFiles(4, "read"), measure: onFiles(4, "read")},
		{goal: goal{name: "rename", title: "rename", unit: "/s", against: either, reach: 2, next: 4},
			strict: true, prepare: someFiles(1), measure: renameFiles, check: checkFiles(1)},
		{goal: goal{name: "mkdir", title: "mkdir", unit: "/s"},
			strict: true, prepare: newFolders, measure: makeFolders},

		{goal: goal{name: "tar", title: "tar x of the tree", unit: "s", less: true, against: either, reach: 2, next: 4},
			strict: true, programs: []string{"tar"}, prepare: readTarball, measure: untar, check: checkTree("tree")},
		{goal: goal{name: "findcold", title: "find cold", unit: "s", less: true},
			strict: true, cold: true, programs: []string{"find"}, prepare: someTree, measure: find},
		{goal: goal{name: "grepcold", title: "grep -r cold", unit: "s", less: true},
			strict: true, cold: true, programs: []string{"grep"}, prepare: someTree, measure: grep},
		{goal: goal{name: "grepwarm", title: "grep -r warm", unit: "s", less: true},
			strict: true, warm: true, programs: []string{"grep"}, prepare: warmTree, measure: grep},
		{goal: goal{name: "cp", title: "cp -a of the tree", unit: "s", less: true, against: either, reach: 2, next: 4},
			strict: true, programs: []string{"cp"}, prepare: warmTree, measure: copyFiles, check: checkTree("copy")},
		{goal: goal{name: "dbench", title: "dbench, 4 clients", unit: "MB/s", against: "bindfs", reach: 2, next: 4},
			programs: []string{"dbench"}, measure: dbench},

		{goal: goal{name: "seqread", title: "read the big file, warm", unit: "MiB/s", against: "ext4", reach: 0.9, next: 1},
			strict: true, prepare: warmBig, measure: readSequentially, check: checkBig},
		{goal: goal{name: "seqreadcold", title: "read the big file, cold", unit: "MiB/s", against: "ext4", reach: 0.9, next: 1},
			strict: true, cold: true, prepare: someBig, measure: readSequentially},
		{goal: goal{name: "randread", title: "random read 4 KiB, warm", unit: "/s", against: "ext4", reach: 0.9, next: 1},
			strict: true, prepare: warmBig, measure: atRandom("randread")},
		{goal: goal{name: "randreadcold", title: "random read 4 KiB, cold", unit: "/s", against: "ext4", reach: 0.9, next: 1},
			strict: true, cold: true, prepare: someBig, measure: atRandom("randread")},
		{goal: goal{name: "seqwrite", title: "write the big file and sync", unit: "MiB/s", against: "ext4", reach: 0.9, next: 1},
			prepare: noBig, measure: writeSequentially},
		{goal: goal{name: "randwrite", title: "random write 4 KiB, buffered", unit: "/s", against: "ext4", reach: 0.5, next: 0.9},
			prepare: warmBig, measure: atRandom("randwrite"), check: checkBig},

		{goal: goal{name: "rmdir", title: "rmdir", unit: "/s"},
			strict: true, prepare: someFolders, measure: removeFolders},
		{goal: goal{name: "unlink1", title: "unlink, 1 thread", unit: "/s", against: either, reach: 2, next: 4},
			strict: true, prepare: someFiles(1), measure: unlinkFiles(1), check: checkGone(1)},
		{goal: goal{name: "unlink4", title: "unlink, 4 threads", unit: "/s", against: either, reach: 2, next: 4},
			strict: true, prepare: someFiles(4), measure: unlinkFiles(4), check: checkGone(4)},
		{goal: goal{name: "rm", title: "rm -rf of the copy", unit: "s", less: true, against: either, reach: 2, next: 4},
			strict: true, programs: []string{"rm", "cp"}, prepare: someCopy, measure: removeTree},
	}
}

// files describes the small files that threads share in one round. Prefixes
// "f" and "g" take turns where a row renames them.
func (m *mountBench) files(s *subject, threads, round int) fsload.Spec {
	dir := fmt.Sprintf("files%d-%d", threads, round)
	prefix := s.made[dir]
	return fsload.Spec{Dir: filepath.Join(s.work, dir), Prefix: prefix, Files: m.entries, Threads: threads}
}

// newFiles makes the empty folders.
func newFiles(threads int) func(context.Context, *mountBench, *subject, int) error {
	return func(_ context.Context, m *mountBench, s *subject, round int) error {
		return makeWorkerFolders(m.files(s, threads, round).Dir, threads)
	}
}

func makeWorkerFolders(dir string, threads int) error {
	for k := range threads {
		if err := os.MkdirAll(filepath.Join(dir, fsload.Folder(k)), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func createFiles(threads int) func(context.Context, *mountBench, *subject, int) (sample, error) {
	return func(ctx context.Context, m *mountBench, s *subject, round int) (sample, error) {
		spec := m.files(s, threads, round)
		spec.Op, spec.Prefix = "create", "f"
		out, err := m.rate(ctx, spec)
		if err == nil {
			s.made[filepath.Base(spec.Dir)] = spec.Prefix
		}
		return out, err
	}
}

// someFiles makes the round's files unless an earlier row left them.
func someFiles(threads int) func(context.Context, *mountBench, *subject, int) error {
	return func(ctx context.Context, m *mountBench, s *subject, round int) error {
		dir := m.files(s, threads, round).Dir
		if s.made[filepath.Base(dir)] != "" {
			return nil
		}
		// A row that failed may have left some of them.
		if err := errors.Join(os.RemoveAll(dir), makeWorkerFolders(dir, threads)); err != nil {
			return err
		}
		_, err := createFiles(threads)(ctx, m, s, round)
		return err
	}
}

// warmFiles does once what the row will measure.
func warmFiles(threads int, op string) func(context.Context, *mountBench, *subject, int) error {
	return func(ctx context.Context, m *mountBench, s *subject, round int) error {
		if err := someFiles(threads)(ctx, m, s, round); err != nil {
			return err
		}
		_, err := onFiles(threads, op)(ctx, m, s, round)
		return err
	}
}

func onFiles(threads int, op string) func(context.Context, *mountBench, *subject, int) (sample, error) {
	return func(ctx context.Context, m *mountBench, s *subject, round int) (sample, error) {
		spec := m.files(s, threads, round)
		spec.Op = op
		return m.rate(ctx, spec)
	}
}

func renameFiles(ctx context.Context, m *mountBench, s *subject, round int) (sample, error) {
	spec := m.files(s, 1, round)
	spec.Op, spec.Target = "rename", "g"
	if spec.Prefix == "g" {
		spec.Target = "f"
	}
	delete(s.made, filepath.Base(spec.Dir)) // A failure leaves some under each name.
	out, err := m.rate(ctx, spec)
	if err == nil {
		s.made[filepath.Base(spec.Dir)] = spec.Target
	}
	return out, err
}

func unlinkFiles(threads int) func(context.Context, *mountBench, *subject, int) (sample, error) {
	return func(ctx context.Context, m *mountBench, s *subject, round int) (sample, error) {
		spec := m.files(s, threads, round)
		spec.Op = "unlink"
		delete(s.made, filepath.Base(spec.Dir))
		return m.rate(ctx, spec)
	}
}

// checkFiles reads every file back: the load compares sizes only where it is
// measured, so the content is compared here.
func checkFiles(threads int) func(context.Context, *mountBench, *subject, int) error {
	return func(_ context.Context, m *mountBench, s *subject, round int) error {
		spec := m.files(s, threads, round)
		want := pattern.At(0, fsload.FileSize)
		for i := range spec.Files {
			if err := sameContent(filepath.Join(spec.Dir, fsload.FileName(&spec, i%threads, i)), want); err != nil {
				return err
			}
		}
		return nil
	}
}

func checkGone(threads int) func(context.Context, *mountBench, *subject, int) error {
	return func(_ context.Context, m *mountBench, s *subject, round int) error {
		for k := range threads {
			left, err := os.ReadDir(filepath.Join(m.files(s, threads, round).Dir, fsload.Folder(k)))
			if err != nil || len(left) > 0 {
				return fmt.Errorf("%d files left after all were deleted: %w", len(left), err)
			}
		}
		return nil
	}
}

// folders describes a tenth as many folders as there are files.
func (m *mountBench) folders(s *subject, round int) fsload.Spec {
	return fsload.Spec{Dir: filepath.Join(s.work, fmt.Sprintf("folders-%d", round)), Prefix: "d", Files: max(1, m.entries/10)}
}

func newFolders(_ context.Context, m *mountBench, s *subject, round int) error {
	return makeWorkerFolders(m.folders(s, round).Dir, 1)
}

func makeFolders(ctx context.Context, m *mountBench, s *subject, round int) (sample, error) {
	spec := m.folders(s, round)
	spec.Op = "mkdir"
	out, err := m.rate(ctx, spec)
	if err == nil {
		s.made[filepath.Base(spec.Dir)] = spec.Prefix
	}
	return out, err
}

func someFolders(ctx context.Context, m *mountBench, s *subject, round int) error {
	dir := m.folders(s, round).Dir
	if s.made[filepath.Base(dir)] != "" {
		return nil
	}
	if err := errors.Join(os.RemoveAll(dir), newFolders(ctx, m, s, round)); err != nil {
		return err
	}
	_, err := makeFolders(ctx, m, s, round)
	return err
}

func removeFolders(ctx context.Context, m *mountBench, s *subject, round int) (sample, error) {
	spec := m.folders(s, round)
	spec.Op = "rmdir"
	delete(s.made, filepath.Base(spec.Dir))
	return m.rate(ctx, spec)
}

// rate runs a load; its value is operations per second.
func (m *mountBench) rate(ctx context.Context, spec fsload.Spec) (sample, error) {
	r, err := m.load(ctx, spec)
	if err != nil {
		return sample{}, err
	}
	return sample{Value: float64(r.Ops) / r.Elapsed.Seconds(), Elapsed: r.Elapsed, Requests: r.Ops, Client: r.CPU}, nil
}

// big describes the file of the rows about content.
func (m *mountBench) big(s *subject, op string) fsload.Spec {
	return fsload.Spec{Op: op, File: filepath.Join(s.work, "big.bin"), Bytes: m.size, For: m.secs}
}

// someBig makes the big file unless an earlier row left it.
func someBig(ctx context.Context, m *mountBench, s *subject, _ int) error {
	spec := m.big(s, "seqwrite")
	if s.made["big.bin"] != "" {
		return nil
	}
	if err := os.RemoveAll(spec.File); err != nil {
		return err
	}
	if _, err := m.load(ctx, spec); err != nil {
		return err
	}
	s.made["big.bin"] = spec.File
	return nil
}

// warmBig reads the big file once, so that it is in the page cache.
func warmBig(ctx context.Context, m *mountBench, s *subject, round int) error {
	if err := someBig(ctx, m, s, round); err != nil {
		return err
	}
	_, err := m.load(ctx, m.big(s, "seqread"))
	return err
}

// noBig makes room for the file that seqwrite makes in each round, in memory
// too: a virtual machine gets pages that it has not used for a while from its
// host, which takes three times as long as the write to them. Who removes a file
// at once would have them ready, and who removes it later would not.
func noBig(ctx context.Context, m *mountBench, s *subject, _ int) error {
	if err := os.RemoveAll(filepath.Join(s.work, "written.bin")); err != nil {
		return err
	}
	spec := m.big(s, "seqwrite")
	spec.File = filepath.Join(m.dir, "warm.bin")
	spec.Bytes *= 2
	_, err := m.load(ctx, spec)
	return errors.Join(err, os.RemoveAll(spec.File))
}

func writeSequentially(ctx context.Context, m *mountBench, s *subject, round int) (sample, error) {
	spec := m.big(s, "seqwrite")
	spec.File = filepath.Join(s.work, "written.bin")
	out, err := m.transfer(ctx, spec)
	if err == nil && round == 0 {
		err = sameAsPattern(spec.File, spec.Bytes)
	}
	return out, errors.Join(err, os.RemoveAll(spec.File))
}

func readSequentially(ctx context.Context, m *mountBench, s *subject, _ int) (sample, error) {
	return m.transfer(ctx, m.big(s, "seqread"))
}

// transfer runs a load over the whole big file; its value is MiB per second.
func (m *mountBench) transfer(ctx context.Context, spec fsload.Spec) (sample, error) {
	out, err := m.rate(ctx, spec)
	if err == nil {
		out.Value = mib(spec.Bytes) / out.Elapsed.Seconds()
	}
	return out, err
}

func atRandom(op string) func(context.Context, *mountBench, *subject, int) (sample, error) {
	return func(ctx context.Context, m *mountBench, s *subject, _ int) (sample, error) {
		return m.rate(ctx, m.big(s, op))
	}
}

func checkBig(_ context.Context, m *mountBench, s *subject, _ int) error {
	return sameAsPattern(m.big(s, "").File, m.size)
}

// sameAsPattern returns an error unless the file has the pattern's content.
func sameAsPattern(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var c pattern.Checker
	// Only the checker's own Write sees all, in pieces of a useful size.
	if _, err := io.CopyBuffer(&c, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return c.Done(size)
}
