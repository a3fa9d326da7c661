package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzReadConfig: a configuration file of any bytes is read or refused with an error
// that names it, and never brings the program down.
func FuzzReadConfig(f *testing.F) {
	for _, s := range []string{"listen: 127.0.0.1:80\n", "users: [a, b]\n", "a: {b: c}\n", "- x\n", "a: &x 1\nb: *x\n", "a: 1\n---\nb: 2\n", "\t", "a: |\n  x\n", "? a\n: b\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		name := filepath.Join(t.TempDir(), "engramfs.yaml")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := readConfig(name)
		if err != nil {
			if !strings.Contains(err.Error(), name) {
				t.Fatalf("%q: error %q does not name the file", b, err)
			}
			return
		}
		for key, v := range c.keys {
			if _, isText := v.value.(string); isText || v.value == nil {
				continue
			}
			list, ok := v.value.([]any)
			for _, item := range list {
				if _, isText := item.(string); !isText {
					ok = false
				}
			}
			if !ok {
				t.Fatalf("%q: key %s is a %T, want a string or strings", b, key, v.value)
			}
		}
	})
}
