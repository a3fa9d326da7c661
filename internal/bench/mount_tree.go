package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// treeDir is the folder of the tree that a round's tar row makes, or of the
// copy that its cp row makes.
func treeDir(s *subject, kind string, round int) string {
	return filepath.Join(s.work, fmt.Sprintf("%s-%d", kind, round))
}

// readTarball makes the tarball, once for all, puts it into the page cache, and
// makes the folder that it will be unpacked in.
func readTarball(ctx context.Context, m *mountBench, s *subject, round int) error {
	if m.tarball == "" {
		path := filepath.Join(m.dir, "tree.tar")
		if _, _, err := command(ctx, []string{"tar", "-cf", path, "-C", m.tree, "."}); err != nil {
			return err
		}
		m.tarball = path
	}
	if _, _, err := command(ctx, []string{"tar", "-tf", m.tarball}); err != nil {
		return err
	}
	dir := treeDir(s, "tree", round)
	return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755))
}

func untar(ctx context.Context, m *mountBench, s *subject, round int) (sample, error) {
	dir := treeDir(s, "tree", round)
	out, err := timedCommand(ctx, []string{"tar", "-xf", m.tarball, "-C", dir})
	if err == nil {
		s.made[filepath.Base(dir)] = dir
	}
	return out, err
}

// someTree unpacks a tree unless the tar row's first round left one. All rounds
// of a row work on the same.
func someTree(ctx context.Context, m *mountBench, s *subject, _ int) error {
	if s.made["tree-0"] != "" {
		return nil
	}
	if err := readTarball(ctx, m, s, 0); err != nil {
		return err
	}
	_, err := untar(ctx, m, s, 0)
	return err
}

// warmTree reads every file of the tree.
func warmTree(ctx context.Context, m *mountBench, s *subject, round int) error {
	if err := someTree(ctx, m, s, round); err != nil {
		return err
	}
	_, err := grep(ctx, m, s, round)
	return err
}

func find(ctx context.Context, _ *mountBench, s *subject, _ int) (sample, error) {
	return timedCommand(ctx, []string{"find", treeDir(s, "tree", 0), "-type", "f"})
}

// grep looks for what no file holds, and so reads all of each.
func grep(ctx context.Context, _ *mountBench, s *subject, _ int) (sample, error) {
	const nothingFound = 1
	return timedCommand(ctx, []string{"grep", "-rc", "engramfs_has_no_such_word", treeDir(s, "tree", 0)}, nothingFound)
}

func copyFiles(ctx context.Context, _ *mountBench, s *subject, round int) (sample, error) {
	dir := treeDir(s, "copy", round)
	out, err := timedCommand(ctx, []string{"cp", "-a", treeDir(s, "tree", 0), dir})
	if err == nil {
		s.made[filepath.Base(dir)] = dir
	}
	return out, err
}

// someCopy copies the tree unless the round's cp row left a copy.
func someCopy(ctx context.Context, m *mountBench, s *subject, round int) error {
	dir := treeDir(s, "copy", round)
	if s.made[filepath.Base(dir)] != "" {
		return nil
	}
	if err := errors.Join(someTree(ctx, m, s, round), os.RemoveAll(dir)); err != nil {
		return err
	}
	_, err := copyFiles(ctx, m, s, round)
	return err
}

func removeTree(ctx context.Context, _ *mountBench, s *subject, round int) (sample, error) {
	dir := treeDir(s, "copy", round)
	delete(s.made, filepath.Base(dir))
	out, err := timedCommand(ctx, []string{"rm", "-rf", dir})
	if _, err2 := os.Lstat(dir); err == nil && !errors.Is(err2, fs.ErrNotExist) {
		err = fmt.Errorf("%s is still there: %v", dir, err2)
	}
	return out, err
}

// timedCommand runs a program; the value is its seconds.
func timedCommand(ctx context.Context, args []string, accept ...int) (sample, error) {
	t0 := time.Now()
	_, used, err := command(ctx, args, accept...)
	out := sample{Elapsed: time.Since(t0), Requests: 1, Client: used}
	out.Value = out.Elapsed.Seconds()
	return out, err
}

// checkTree compares a tree with the folder that it was made from.
func checkTree(kind string) func(context.Context, *mountBench, *subject, int) error {
	return func(_ context.Context, m *mountBench, s *subject, round int) error {
		dir := treeDir(s, kind, round)
		return filepath.WalkDir(m.tree, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			want, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(m.tree, path)
			if err != nil {
				return err
			}
			return sameContent(filepath.Join(dir, rel), want)
		})
	}
}

// sameContent returns an error unless the file has this content.
func sameContent(path string, want []byte) error {
	got, err := os.ReadFile(path)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%s: %d bytes that are not the content written (%d bytes)", path, len(got), len(want))
	}
	return err
}

var dbenchResult = regexp.MustCompile(`(?m)^Throughput ([0-9.]+) MB/sec .* max_latency=([0-9.]+) ms`)

// dbench runs the program's own file server load. It runs three times as long
// as other loads, because it spends a part of it warming up.
func dbench(ctx context.Context, m *mountBench, s *subject, round int) (sample, error) {
	dir := treeDir(s, "dbench", round)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return sample{}, err
	}
	seconds := strconv.Itoa(max(3, int((3 * m.secs).Seconds())))
	t0 := time.Now()
	text, used, err := command(ctx, []string{"dbench", "-D", dir, "-t", seconds, "4"})
	out := sample{Elapsed: time.Since(t0), Requests: 1, Client: used}
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		return out, err
	}
	out.Value, err = parseDbench(text)
	return out, err
}

// parseDbench returns the throughput in MB/s.
func parseDbench(text []byte) (float64, error) {
	match := dbenchResult.FindSubmatch(text)
	if match == nil {
		return 0, fmt.Errorf("dbench printed no result: %s", text[max(0, len(text)-300):])
	}
	return strconv.ParseFloat(string(match[1]), 64)
}
