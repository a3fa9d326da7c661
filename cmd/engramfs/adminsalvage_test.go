package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"engramfs/store"
	"engramfs/store/storetest"
)

// damagedStore returns a store with the file /big, whose second block has a wrong bit
// that somebody has met.
func damagedStore(t *testing.T) (s *store.Store, ino string, content []byte) {
	t.Helper()
	s, blobs := storetest.NewWith(t, store.Options{})
	content = bytes.Repeat([]byte("0123456789abcdef"), 3*65536/16)
	ctx := context.Background()
	u, err := s.NewUpload(ctx, store.RootIno, "big", int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = u.Write(content)
	if err == nil {
		_, _, err = u.Commit(ctx, store.CommitOptions{Mode: 0o644})
	}
	a, lerr := s.LookupPath(ctx, "/big")
	c, oerr := s.OpenContent(ctx, a.Ino)
	if err = errors.Join(err, lerr, oerr); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	blobs.Flip(blobs.IDs()[0], 70_000)
	_, _ = io.Copy(io.Discard, io.NewSectionReader(c, 0, c.Size())) // fails, as it shall
	return s, strconv.FormatUint(uint64(a.Ino), 10), content
}

func TestAdminSalvages(t *testing.T) {
	s, ino, content := damagedStore(t)
	server := serveAdmin(t, s)
	file := filepath.Join(t.TempDir(), "big")
	code, out, errs := admin(t, server, "salvage", ino, "-o", file, "--reason", "no other copy")
	if want := "File:     " + file + "\nBytes:    196608\nWrong:    bytes=65536-131071\n"; code != exitClean || out != want || errs != "" {
		t.Fatalf("exit %d\n%s%s\nwant %s", code, out, errs, want)
	}
	got, err := os.ReadFile(file)
	if err != nil || len(got) != len(content) || got[70_000] == content[70_000] {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	got[70_000] = content[70_000]
	if !bytes.Equal(got, content) {
		t.Error("more differs than the bit that was flipped")
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if code, _, errs := admin(t, server, "salvage", ino, "-o", file); code != exitRun || !strings.Contains(errs, "file exists") {
		t.Errorf("over a file: exit %d, %s", code, errs)
	}
	if _, out, _ := admin(t, server, "audit"); strings.Count(out, "file.salvage") != 1 || !strings.Contains(out, "no other copy") {
		t.Errorf("audit:\n%s", out)
	}
	code, out, _ = admin(t, server, "salvage", ino, "-o", file+".2", "--json")
	var v salvaged
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitClean || v.Bytes != int64(len(content)) || v.Bad != "bytes=65536-131071" {
		t.Errorf("--json: exit %d\n%s", code, out)
	}
}

// A disk that is full here is not one that fails there.
func TestAdminSalvageNamesWhoseFaultItIs(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		need(t, err.Error())
	}
	defer full.Close()
	_, local := full.Write([]byte("x"))
	c := &adminSalvageCmd{Inode: 7, Output: "big"}
	for want, err := range map[string]error{"make room": local, "the server's log": io.ErrUnexpectedEOF} {
		var h *hintError
		if err := c.cutOff(5, err); !errors.As(err, &h) || !strings.Contains(h.hint, want) || !strings.Contains(err.Error(), "after 5 bytes") {
			t.Errorf("%v, want a hint with %q", err, want)
		}
	}
}

func TestAdminSalvageOfNothing(t *testing.T) {
	s, _, _ := damagedStore(t)
	server := serveAdmin(t, s)
	file := filepath.Join(t.TempDir(), "nothing")
	code, out, errs := admin(t, server, "salvage", "999", "-o", file)
	if code != exitRun || out != "" || !strings.Contains(errs, "not_found") || !strings.Contains(errs, "hint: engramfs admin damaged") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty file is left: %v", err)
	}
	if code, _, _ := admin(t, server, "salvage", "1"); code != exitUsage {
		t.Errorf("without --output: exit %d", code)
	}
}

// A scrub of a real store, as the command line sees it.
func TestAdminScrubsAStore(t *testing.T) {
	s, ino, _ := damagedStore(t)
	server := serveAdmin(t, s, withoutClock)
	code, out, errs := admin(t, server, "scrub")
	if code != exitRun || !strings.Contains(out, "Result:   problems\n") || !strings.Contains(out, "Covered:  192.0 KiB of 192.0 KiB") || !strings.Contains(out, "Problems: inode "+ino+" at 65536") || errs != "" {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if code, out, _ := admin(t, server, "scrub", "status"); code != exitRun || !strings.Contains(out, "Result:   problems\n") {
		t.Errorf("status: exit %d\n%s", code, out)
	}
	if code, out, _ := admin(t, server, "damaged"); code != exitRun || !strings.Contains(out, "\n"+ino+" ") || !strings.Contains(out, "/big") {
		t.Errorf("damaged: exit %d\n%s", code, out)
	}
}
