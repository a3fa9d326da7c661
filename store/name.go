package store

import (
	"fmt"
	"path"
	"strings"
)

// CheckName returns nil if name can name an entry of a directory: 1 to MaxName
// bytes, any but '/' and NUL, and neither "." nor "..". Otherwise it returns an
// error that matches ErrName or ErrNameTooLong.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%w: %q", ErrName, name)
	}
	if len(name) > MaxName {
		return fmt.Errorf("%w: %d bytes", ErrNameTooLong, len(name))
	}
	return nil
}

// nextName returns the first name of the slash-separated path p, and the rest
// behind it. An empty name means that p is used up.
func nextName(p string) (name, rest string) {
	p = strings.TrimLeft(p, "/")
	if i := strings.IndexByte(p, '/'); i >= 0 {
		return p[:i], p[i+1:]
	}
	return p, ""
}

// splitPath returns the parent of the cleaned path p and its last name, which
// is empty for the root.
func splitPath(p string) (dir, name string) {
	p = path.Clean("/" + p)
	dir, name = path.Split(p)
	return dir, name
}
