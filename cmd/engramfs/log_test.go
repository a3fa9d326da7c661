package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func TestLogger(t *testing.T) {
	for _, c := range []struct {
		format, level string
		json          bool
		lines         int
	}{
		{"auto", "info", true, 1},
		{"json", "debug", true, 2},
		{"text", "info", false, 1},
		{"text", "warn", false, 0},
		{"auto", "error", true, 0},
	} {
		var b bytes.Buffer
		log := newLogger(&b, c.format, c.level)
		log.Debug("fine", "k", 1)
		log.Info("lock poisoned", "lock", "inode:7")
		lines := strings.Count(b.String(), "\n")
		if lines != c.lines || lines > 0 && json.Valid([]byte(strings.SplitAfter(b.String(), "\n")[0])) != c.json {
			t.Errorf("%s, %s: %d lines: %q", c.format, c.level, lines, &b)
		}
		if strings.Contains(b.String(), "\x1b") {
			t.Errorf("%s: colours without a terminal: %q", c.format, &b)
		}
	}
}

func TestAFileIsNoTerminal(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if isTerminal(f) || isTerminal(new(bytes.Buffer)) {
		t.Error("a file or a buffer passes for a terminal")
	}
}
