package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// adminCmd is what the commands that ask a running server have in common: which
// server, and who asks.
type adminCmd struct {
	configFlag
	Admin   string `default:"127.0.0.1:8081" placeholder:"ADDR" help:"Address of the server's admin listener (${default})."`
	TLSCert string `name:"tls-cert" placeholder:"FILE" help:"PEM certificate of the server, the only one that is trusted; without it --admin means HTTP."`
	Data    string `default:"engramfs-data" placeholder:"DIR" help:"Data folder of the server; its admin-token is sent (${default})."`

	URL          string `placeholder:"URL" help:"A server anywhere, such as https://files.example:8081, in place of --admin. The token of --data is not sent to it."`
	TokenFile    string `placeholder:"FILE" help:"File with the server's admin token."`
	Login        string `placeholder:"NAME" help:"A user of the server. The password comes from --password-file or the variable ENGRAMFS_PASSWORD."`
	PasswordFile string `placeholder:"FILE" help:"File with the password of --login."`
	Insecure     bool   `help:"Send credentials to another machine without TLS, too."`
	JSON         bool   `name:"json" env:"-" help:"Print the server's answer as it is."`

	Health  adminHealthCmd  `cmd:"" help:"State, problem and what to do; exit code 1 unless all is well."`
	Locks   adminLocksCmd   `cmd:"" help:"The locks of the store and those of troubled inodes, or one with its stack."`
	Reset   adminResetCmd   `cmd:"" help:"Rebuild what a poisoned lock guards, check it and clear the lock. Reports what it would do, and asks."`
	Events  adminEventsCmd  `cmd:"" help:"What happened to the locks, or one event with its stack and report."`
	Handles adminHandlesCmd `cmd:"" help:"Files that clients hold open."`
	Damaged adminDamagedCmd `cmd:"" help:"Places with damaged content; exit code 1 if there are any."`
	Salvage adminSalvageCmd `cmd:"" help:"Fetch a damaged file as it is stored, wrong bytes and all."`
	Check   adminCheckCmd   `cmd:"" help:"Compare all metadata with itself; exit code 1 if it finds a problem."`
	Scrub   adminScrubCmd   `cmd:"" help:"Read all content against its checksums; exit code 1 if it finds a problem."`
	Drill   adminDrillCmd   `cmd:"" help:"Make the next change of a file fail on purpose, or list where that can happen."`
	Audit   adminAuditCmd   `cmd:"" help:"What administrators did, and how it ended."`
}

// passwordEnv is the variable with the password of --login.
const passwordEnv = "ENGRAMFS_PASSWORD"

// open works out how to reach the server. It asks nothing yet.
func (c *adminCmd) open(p *process) (*adminAPI, error) {
	s := &adminAPI{p: p, json: c.JSON}
	health := healthcheckCmd{reach{configFlag: c.configFlag, Admin: c.Admin, TLSCert: c.TLSCert}}
	client, scheme, err := health.client()
	if err != nil {
		return nil, usage(err)
	}
	s.client = client
	// A redirect would be followed by a GET where a POST was asked for.
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if err := c.locate(s, scheme); err != nil {
		return nil, usage(err)
	}
	if err := c.identify(s); err != nil {
		return nil, usage(err)
	}
	if s.auth != "" && s.base.Scheme != "https" && !isLoopback(s.base.Host) && !c.Insecure {
		return nil, usage(hint(fmt.Errorf("%s: credentials would travel to another machine unencrypted", s.base),
			"use https://, or a tunnel to a loopback address; --insecure sends them all the same"))
	}
	return s, nil
}

// locate sets the address of s from --url or else --admin.
func (c *adminCmd) locate(s *adminAPI, scheme string) error {
	if c.URL != "" {
		u, err := url.Parse(strings.TrimRight(c.URL, "/"))
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("--url: want http://HOST:PORT or https://HOST:PORT, without a user") // not shown: it may hold a password
		}
		if u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
		}
		s.base = u
		return nil
	}
	if c.Admin == none {
		return hint(errors.New("--admin is none: the server has no admin listener"), "give --admin the address of one, or --url")
	}
	host, port, err := net.SplitHostPort(c.Admin)
	if err != nil {
		return fmt.Errorf("--admin %q: want HOST:PORT", c.Admin)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	s.base = &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}
	return nil
}

// identify sets the credentials of s. Without a word about them they are the token
// of the data folder, if it can be read: an anonymous server wants none.
func (c *adminCmd) identify(s *adminAPI) error {
	switch {
	case c.Login != "" && c.TokenFile != "":
		return errors.New("--login and --token-file exclude each other")
	case c.Login != "":
		password, err := c.password()
		if err != nil {
			return err
		}
		s.useLogin(c.Login, password)
		return nil
	case c.TokenFile != "":
		return s.useToken(c.TokenFile)
	case c.URL != "":
		s.lack = "give --token-file or --login"
		return nil
	}
	if err := s.useToken(filepath.Join(c.Data, tokenFile)); errors.Is(err, fs.ErrNotExist) {
		s.lack = fmt.Sprintf("there is no token in the data folder %s: give the right --data, or --token-file or --login", c.Data)
	} else if err != nil {
		s.lack = fmt.Sprintf("%v: run this as the server's user, or give --token-file or --login", err)
	}
	return nil
}

func (c *adminCmd) password() (string, error) {
	if c.PasswordFile != "" {
		text, err := os.ReadFile(c.PasswordFile)
		return strings.TrimRight(string(text), "\r\n"), err
	}
	password, ok := os.LookupEnv(passwordEnv)
	if !ok {
		return "", errors.New("--login needs --password-file, or the variable " + passwordEnv)
	}
	return password, nil
}
