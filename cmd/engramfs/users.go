package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"strings"

	"engramfs/internal/auth"
)

// firstUser is the name of the user that the first start makes.
const firstUser = "admin"

// loadUsers returns the users of the folder's users file; none if there is no
// file.
func (d *dataFolder) loadUsers(log *slog.Logger) (auth.Users, error) {
	f, err := os.Open(d.path(usersFile))
	if errors.Is(err, fs.ErrNotExist) {
		return auth.Users{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Mode()&0o077 != 0 {
		log.Warn("users file is open to others, want mode 0600", "file", f.Name(), "mode", fi.Mode())
	}
	users, err := auth.ReadUsers(f)
	if err != nil {
		return nil, hint(fmt.Errorf("%s: %w", f.Name(), err),
			"correct the line, or delete the file to get a new first user")
	}
	return users, nil
}

// users returns the users of the file and those of --user, who win.
func (c *serveCmd) users(d *dataFolder, log *slog.Logger) (auth.Users, error) {
	users, err := d.loadUsers(log)
	if err != nil {
		return nil, err
	}
	maps.Copy(users, c.given)
	return users, nil
}

// parseUsers hashes the passwords of --user. Its errors do not show them.
func (c *serveCmd) parseUsers() error {
	c.given = auth.Users{}
	for _, u := range c.User {
		name, h, err := auth.ParseUser(u)
		if err != nil {
			name, _, ok := strings.Cut(u, ":")
			if !ok {
				name = "(no name)"
			}
			return fmt.Errorf("--user %.40s: %w", name, err)
		}
		c.given[name] = h
	}
	return nil
}

// makeFirstUser writes a users file with one user and returns the password,
// which is kept nowhere else.
func (d *dataFolder) makeFirstUser() (auth.Users, string, error) {
	password := auth.NewPassword()
	users := auth.Users{firstUser: auth.NewHash(password)}
	var b strings.Builder
	if _, err := users.WriteTo(&b); err != nil {
		return nil, "", err
	}
	return users, password, writeFile(d.path(usersFile), []byte(b.String()))
}
