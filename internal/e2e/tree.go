package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// oddNames are legal file names that clients and servers get wrong: bytes with
// a meaning in URLs, XML, shells or other systems, several scripts, and the
// longest name in two encodings' lengths.
var oddNames = []string{
	"plain.txt", "with space.txt", "two  spaces.txt", "ünïcödé.txt", "日本語.txt", "emoji😀.txt", "e\u0301 decomposed.txt",
	"hash#tag.txt", "100%.txt", "%41 escaped.txt", "%2e%2e", "a+b&c=d;e.txt", "quote'double\".txt", "comma,.txt", "tilde~.txt",
	"[brackets].txt", "(parens).txt", "{braces}.txt", "question?.txt", "colon:.txt", "back\\slash.txt", "star*.txt",
	"pipe|.txt", "<angle>.txt", "dollar$.txt", "at@.txt", "excl!.txt", "caret^.txt", "back`tick.txt", ".hidden", "-dash",
	"...", "trailing dot.", "no-extension", "UPPER.TXT", "upper.txt", "index.html", "con.txt", "semi;colon=1",
}

// edgeSizes are sizes around the limits at which a server changes its ways.
var edgeSizes = []int{0, 1, 2, 511, 512, 4095, 4096, 4097, 16<<10 - 1, 16 << 10, 16<<10 + 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20, 5<<20 + 3}

// PlantOddTree makes a folder of a few hundred files with odd names and edge
// sizes below dir. No name is longer than longest bytes. It returns the number
// of files.
func PlantOddTree(dir string, longest int) (int, error) {
	files := map[string]int{} // relative path -> size
	for i, name := range oddNames {
		files["names/"+name] = 100 + i
		if i%3 == 0 { // Folders cost the clients several requests each.
			files["folder "+name+"/"+name] = 4096 + i
		}
	}
	for _, unit := range []string{"x", "ä", "漢"} {
		name := strings.Repeat(unit, longest/len(unit))
		files["long/"+name] = len(name)
		files["long folder/"+name+"/"+name] = 1
	}
	for _, size := range edgeSizes {
		files[fmt.Sprintf("sizes/%d.bin", size)] = size
	}
	for i := range 100 {
		files[fmt.Sprintf("many/%d/%d/f%d", i%2, i%6, i)] = i * 37
	}
	for p, size := range files {
		full := filepath.Join(dir, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return 0, err
		}
		if err := os.WriteFile(full, Content(uint64(len(p)*7919+size), size), 0o644); err != nil {
			return 0, err
		}
	}
	return len(files), os.MkdirAll(filepath.Join(dir, "empty folder"), 0o755)
}

// CompareTree reads everything below the collection base and compares it with
// the local folder dir: names, kinds and every byte, in both directions. It
// returns the number of files that are equal.
func CompareTree(d *DAV, base, dir string) (int, error) {
	want := map[string]bool{} // path below base -> is a folder
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p) // p is below dir.
		if rel != "." {
			want[filepath.ToSlash(rel)] = e.IsDir()
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	equal := 0
	err = d.Walk(base, func(e Entry) error {
		rel := strings.TrimPrefix(e.Path, path.Clean(base)+"/")
		isDir, known := want[rel]
		if !known || isDir != e.Dir {
			return fmt.Errorf("%q (folder: %v) is on the server and not in the source", rel, e.Dir)
		}
		delete(want, rel)
		if e.Dir {
			return nil
		}
		equal++
		return compareFile(d, e, filepath.Join(dir, filepath.FromSlash(rel)))
	})
	if err != nil {
		return equal, err
	}
	for rel := range want {
		return equal, fmt.Errorf("%q and %d others are not on the server", rel, len(want)-1)
	}
	return equal, nil
}

func compareFile(d *DAV, e Entry, local string) error {
	want, err := os.ReadFile(local)
	if err != nil {
		return err
	}
	r, got, err := d.Do("GET", e.Path, nil, nil)
	if err != nil || r.Status != 200 {
		return fmt.Errorf("GET %q: %v, status %d", e.Path, err, status(r))
	}
	if !bytes.Equal(got, want) || e.Size != fmt.Sprint(len(want)) {
		return fmt.Errorf("%q: %d bytes, getcontentlength %q, want the source's %d bytes", e.Path, len(got), e.Size, len(want))
	}
	return nil
}
