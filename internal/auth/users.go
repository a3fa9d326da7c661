package auth

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of names and passwords, in bytes. Longer ones are refused before
// anything is computed.
const (
	MaxName     = 128
	MaxPassword = 1024
)

// Errors of user names and passwords.
var (
	// ErrName is returned for a user name that is empty, too long, not UTF-8,
	// or has a colon, a backslash, white space or control characters.
	ErrName = errors.New("invalid user name")
	// ErrPassword is returned for a password that is empty, too long, not
	// UTF-8 or has control characters.
	ErrPassword = errors.New("invalid password")
)

// Users maps a user's name to the hash of the password.
type Users map[string]Hash

// ParseUser reads NAME:PASSWORD, or NAME:HASH with a hash in the form of
// Hash.String, and returns the name and the hash.
func ParseUser(s string) (string, Hash, error) {
	name, secret, ok := strings.Cut(s, ":")
	if !ok {
		return "", Hash{}, errors.New("want NAME:PASSWORD")
	}
	if err := checkName(name); err != nil {
		return "", Hash{}, err
	}
	if strings.HasPrefix(secret, "$argon2id$") {
		h, err := ParseHash(secret)
		return name, h, err
	}
	if err := checkPassword(secret); err != nil {
		return "", Hash{}, err
	}
	return name, NewHash(secret), nil
}

// ReadUsers reads a users file: one NAME:HASH a line; empty lines and lines
// that begin with # are skipped. The error names the line, never its secret.
func ReadUsers(r io.Reader) (Users, error) {
	users := Users{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, text, _ := strings.Cut(line, ":")
		if err := checkName(name); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		h, err := ParseHash(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: user %s: %w", n, name, err)
		}
		if _, twice := users[name]; twice {
			return nil, fmt.Errorf("line %d: user %s is listed twice", n, name)
		}
		users[name] = h
	}
	return users, lines.Err()
}

// WriteTo writes the file that ReadUsers reads, ordered by name.
func (u Users) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	b.WriteString("# Users of this server: NAME:HASH, one a line. Delete the file to get a new first user.\n")
	for _, name := range slices.Sorted(maps.Keys(u)) {
		fmt.Fprintf(&b, "%s:%s\n", name, u[name])
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// NewPassword returns a random password of 20 characters that are safe in a
// URL and in a shell, with 120 bits of entropy.
func NewPassword() string {
	b := make([]byte, 15)
	rand.Read(b) // never fails, see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b)
}

func checkName(name string) error {
	bad := func(r rune) bool { return r == ':' || r == '\\' || unicode.IsSpace(r) || unicode.IsControl(r) }
	if name == "" || len(name) > MaxName || name[0] == '#' || !utf8.ValidString(name) || strings.ContainsFunc(name, bad) {
		return ErrName
	}
	return nil
}

func checkPassword(password string) error {
	if password == "" || len(password) > MaxPassword || !utf8.ValidString(password) ||
		strings.ContainsFunc(password, unicode.IsControl) {
		return ErrPassword
	}
	return nil
}
