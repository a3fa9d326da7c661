package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"engramfs/internal/auth"
	"engramfs/store"
	"engramfs/store/blob/local"
	"engramfs/store/meta/pebble"
	"engramfs/web"
	"engramfs/webdav"
)

// Run serves until the process is told to stop. Every file that a client was
// told is stored is durable, however Run ends.
func (c *serveCmd) Run(p *process) (err error) {
	if err := c.validate(); err != nil {
		return usage(err)
	}
	if err := c.parseUsers(); err != nil {
		return usage(err)
	}
	log := newLogger(p.stderr, c.LogFormat, c.LogLevel)
	if os.Getenv("GOMEMLIMIT") == "" && c.MemoryLimit > 0 {
		debug.SetMemoryLimit(int64(c.MemoryLimit))
	}
	ctx, stop := signal.NotifyContext(p.ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	s := &server{cfg: c, out: p, log: log}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.open(ctx); err != nil {
		return err
	}
	return s.serve(ctx, stop)
}

// server is what a running serve command holds, in the order it is opened.
type server struct {
	cfg *serveCmd
	out *process
	log *slog.Logger

	data       *dataFolder
	dav, admin net.Listener
	cert       *certificate // nil: no TLS
	store      *store.Store
	auth       *auth.Authenticator // nil: anonymous
}

// open gets everything that can fail: after it, only serving is left.
func (s *server) open(ctx context.Context) (err error) {
	if s.data, err = openData(s.cfg.Data); err != nil {
		return err
	}
	users, err := s.cfg.users(s.data, s.log)
	if err != nil {
		return err
	}
	if s.cfg.TLSCert != "" {
		s.cert = &certificate{certFile: s.cfg.TLSCert, keyFile: s.cfg.TLSKey}
		if err := s.cert.load(); err != nil {
			return err
		}
	}
	if s.dav, err = listen(ctx, s.cfg.Listen, s.cfg.ClientTime); err != nil {
		return err
	}
	if s.admin, err = listen(ctx, s.cfg.Admin, s.cfg.ClientTime); err != nil {
		return err
	}
	if err := s.openStore(ctx); err != nil {
		return err
	}
	if err := s.data.finish(); err != nil {
		return err
	}
	return s.openAuth(users)
}

func (s *server) openStore(ctx context.Context) error {
	engine, err := pebble.Open(s.data.path(metaDir), pebble.Options{
		Create: s.data.fresh, CacheSize: int64(s.cfg.CacheSize), Logger: s.log,
	})
	if err != nil {
		return err
	}
	blobs, err := local.Open(s.data.path(blobsDir), local.Options{Create: s.data.fresh, Logger: s.log})
	if err != nil {
		return errors.Join(err, engine.Close())
	}
	inline := int(s.cfg.InlineSize)
	if inline == 0 {
		inline = -1 // the store's word for none; its 0 means the default
	}
	s.store, err = store.Open(ctx, store.Options{
		Meta: engine, Blobs: blobs, Logger: s.log,
		Reserve: int64(s.cfg.Reserve), Inline: inline, Nodes: s.cfg.CachedInodes,
	})
	return err
}

// openAuth makes the first user if there is none, and shows its password on
// the terminal, which is the only place it ever appears.
func (s *server) openAuth(users auth.Users) error {
	if s.cfg.Anonymous {
		return nil
	}
	if len(users) == 0 {
		var password string
		var err error
		if users, password, err = s.data.makeFirstUser(); err != nil {
			return err
		}
		fmt.Fprintf(s.out.stdout, "engramfs: first start: this password is shown once, and only its hash is kept\n"+
			"    url       %s\n    user      %s\n    password  %s\n", s.davURL(), firstUser, password)
	}
	s.auth = auth.New(auth.Options{Users: users, Logger: s.log})
	return nil
}

// serve answers requests until ctx ends or a listener fails, and then drains.
func (s *server) serve(ctx context.Context, stop func()) error {
	servers := []*http.Server{
		newHTTPServer(s.davHandler(), s.cfg.ClientTime, s.log),
		newHTTPServer(s.adminHandler(), s.cfg.ClientTime, s.log),
	}
	failed := make(chan error, len(servers))
	for i, l := range []net.Listener{s.dav, s.admin} {
		go func() { failed <- s.serveOn(servers[i], l) }()
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	fmt.Fprintf(s.out.stdout, "engramfs: ready url=%s admin=%s\n", s.davURL(), s.adminURL())
	s.log.Info("serving", "url", s.davURL(), "admin", s.adminURL(), "data", s.data.dir, "version", programVersion())

	for {
		select {
		case <-hup:
			s.reload()
		case err := <-failed:
			s.drain(servers)
			return err
		case <-ctx.Done():
			stop() // a second signal ends the process at once
			s.drain(servers)
			return nil
		}
	}
}

func (s *server) serveOn(h *http.Server, l net.Listener) error {
	var err error
	if s.cert != nil {
		h.TLSConfig = s.cert.config()
		err = h.ServeTLS(l, "", "")
	} else {
		h.ConnContext = webdav.CorkContext
		err = h.Serve(webdav.CorkListener(l))
	}
	return fmt.Errorf("listener %s: %w", l.Addr(), err)
}

// drain stops accepting, lets running requests finish until the shutdown
// timeout, and then cuts off the rest.
func (s *server) drain(servers []*http.Server) {
	s.log.Info("draining", "timeout", s.cfg.ShutdownTime)
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.ShutdownTime)
	defer cancel()
	for _, h := range servers {
		if err := h.Shutdown(ctx); err != nil {
			s.log.Warn("requests were cut off", "err", err)
			_ = h.Close() // of connections that are given up
		}
	}
}

// reload reads the users file and the certificate again. What cannot be read
// stays as it is.
func (s *server) reload() {
	if s.auth != nil {
		users, err := s.cfg.users(s.data, s.log)
		switch {
		case err != nil:
			s.log.Error("users not reloaded", "err", err)
		case len(users) == 0:
			s.log.Error("users not reloaded", "err", "there would be none")
		default:
			s.auth.SetUsers(users)
			s.log.Info("users reloaded", "users", len(users))
		}
	}
	if s.cert != nil {
		if err := s.cert.load(); err != nil {
			s.log.Error("certificate not reloaded", "err", err)
			return
		}
		s.log.Info("certificate reloaded")
	}
}

// close releases what open has got, the store first and the folder's lock last.
func (s *server) close() error {
	var errs []error
	for _, l := range []net.Listener{s.dav, s.admin} {
		if l != nil {
			_ = l.Close() // again, if it has served
		}
	}
	if s.store != nil {
		begin := time.Now()
		if err := s.store.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close the store: %w", err))
		}
		s.log.Info("stopped", "took", time.Since(begin))
	}
	if s.data != nil {
		errs = append(errs, s.data.Close())
	}
	return errors.Join(errs...)
}

func (s *server) davHandler() http.Handler {
	h := http.Handler(webdav.New(webdav.Options{
		Store: s.store, Prefix: s.cfg.Prefix, Logger: s.log, Principal: auth.Principal,
	}))
	if s.auth != nil {
		return s.auth.RequireDAV(h)
	}
	return auth.Hosts(s.hosts(), h)
}

func (s *server) adminHandler() http.Handler {
	o := web.Options{
		Store: s.store, Logger: s.log, Build: web.Build{Version: programVersion(), Go: runtime.Version()},
		Hung:   func() bool { return s.store.Registry().Health().HardStuck },
		Drills: s.cfg.EnableDrills, Points: store.FaultPoints(), Principal: auth.Principal,
	}
	if s.auth != nil {
		o.Require, o.Optional = s.auth.Require, s.auth.Optional
	}
	return auth.Hosts(s.hosts(), web.New(o))
}

// hosts returns the names under which the configuration knows this server.
func (s *server) hosts() []string {
	names := append([]string{}, s.cfg.AllowHost...)
	for _, addr := range []string{s.cfg.Listen, s.cfg.Admin} {
		if host, _, err := net.SplitHostPort(addr); err == nil && host != "" {
			names = append(names, host)
		}
	}
	return names
}

func (s *server) davURL() string   { return s.url(s.dav, s.cfg.Listen) + s.cfg.Prefix + "/" }
func (s *server) adminURL() string { return s.url(s.admin, s.cfg.Admin) + "/" }

// url returns a URL that reaches l: the host that was configured, which a
// certificate may be for, and the port that was bound.
func (s *server) url(l net.Listener, configured string) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	host, _, _ := net.SplitHostPort(configured)
	if ip := net.ParseIP(strings.Trim(host, "[]")); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	scheme := "http://"
	if s.cert != nil {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(host, port)
}
