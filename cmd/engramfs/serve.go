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
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"engramfs/fuse"
	"engramfs/internal/auth"
	"engramfs/internal/crash"
	"engramfs/internal/tracing"
	"engramfs/store"
	"engramfs/store/blob/local"
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
	signal.Ignore(syscall.SIGPIPE) // a reader of the log who goes away must not end the server
	ctx, stop := signal.NotifyContext(p.ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	s := &server{cfg: c, out: p, log: log}
	defer func() { err = errors.Join(err, s.close()) }()
	if err = s.open(ctx); err == nil {
		err = s.serve(ctx, stop)
	}
	s.orderly = true // not reached by a panic
	return err
}

// server is what a running serve command holds, in the order it is opened.
type server struct {
	cfg *serveCmd
	out *process
	log *slog.Logger

	data       *dataFolder
	crash      *crash.Recorder
	dav, admin net.Listener
	cert       *certificate    // nil: no TLS
	tracer     *tracing.Tracer // nil: no traces
	metadata   *metadata
	store      *store.Store
	mount      *fuse.Mounted       // nil: not mounted
	auth       *auth.Authenticator // nil: anonymous
	monitor    monitor
	audit      *web.Audit
	web        *web.Server // nil: no admin listener
	orderly    bool        // the process ends because it is to end
}

// open gets everything that can fail: after it, only serving is left.
func (s *server) open(ctx context.Context) (err error) {
	if s.data, err = openData(s.cfg.Data); err != nil {
		return err
	}
	if err := s.openCrash(); err != nil {
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
	if err := s.listen(ctx); err != nil {
		return err
	}
	s.openTracer(ctx)
	if err := s.openStore(ctx); err != nil {
		return err
	}
	if s.data.fresh {
		if err := s.giveRoot(ctx); err != nil {
			return err
		}
	}
	if err := s.data.finish(); err != nil {
		return err
	}
	if err := s.openAuth(users); err != nil {
		return err
	}
	if err := s.openAudit(); err != nil {
		return err
	}
	if err := s.openMonitor(); err != nil {
		return err
	}
	if err := s.openMount(ctx); err != nil {
		return err
	}
	return s.openAdmin()
}

// listen binds the addresses that are configured.
func (s *server) listen(ctx context.Context) (err error) {
	if s.cfg.Listen != none {
		if s.dav, err = listen(ctx, s.cfg.Listen, s.cfg.ClientTime); err != nil {
			return err
		}
	}
	if s.cfg.Admin != none {
		s.admin, err = listen(ctx, s.cfg.Admin, s.cfg.ClientTime)
	}
	return err
}

func (s *server) openStore(ctx context.Context) error {
	blobs, err := local.Open(s.data.path(blobsDir), local.Options{Create: s.data.fresh, Logger: s.log})
	if err != nil {
		return err
	}
	if s.metadata, err = openMetadata(ctx, s.metadataOptions(blobs)); err != nil {
		return errors.Join(err, blobs.Close())
	}
	inline := int(s.cfg.InlineSize)
	if inline == 0 {
		inline = -1 // the store's word for none; its 0 means the default
	}
	s.store, err = store.Open(ctx, store.Options{
		Meta: s.metadata.engine, Blobs: blobs, Logger: s.log, Boot: diskSession(s.data.path(blobsDir)),
		Reserve: int64(s.cfg.Reserve), Inline: inline, Nodes: s.cfg.CachedInodes,
		Began: s.tracer.Store(), Watch: s.watchLocks(), ReadOnly: s.crashLoop(), Scrub: s.cfg.scrubFlags.options(),
	})
	if s.metadata.suspect(err) {
		return s.openStore(ctx)
	}
	return err
}

// giveRoot makes the root directory of a new store belong to the user of this
// process, who could not write to it through a mount otherwise.
func (s *server) giveRoot(ctx context.Context) error {
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	if uid == 0 && gid == 0 {
		return nil
	}
	if _, err := s.store.SetAttr(ctx, store.RootIno, store.SetAttr{UID: &uid, GID: &gid}); err != nil {
		return fmt.Errorf("own the root directory: %w", err)
	}
	return s.store.Sync(ctx)
}

// openAuth makes the first user if there is none, and shows its password on
// the terminal, which is the only place it ever appears.
func (s *server) openAuth(users auth.Users) error {
	if s.cfg.Anonymous || s.dav == nil && s.admin == nil {
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
// With nothing but a mount to serve it also ends with the mount.
func (s *server) serve(ctx context.Context, stop func()) error {
	var servers []*http.Server
	failed := make(chan error, 2)
	for _, d := range []struct {
		l       net.Listener
		handler func() http.Handler
	}{{s.dav, s.davHandler}, {s.admin, s.adminHandler}} {
		if d.l != nil {
			h := newHTTPServer(d.handler(), s.cfg.ClientTime, s.log)
			servers = append(servers, h)
			go func() { failed <- s.serveOn(h, d.l) }()
		}
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	s.announce()
	defer s.supervise()()
	defer s.monitor.run()()
	if s.web != nil {
		go s.web.Run(ctx)
	}
	unmounted := s.unmounted()
	for {
		select {
		case <-hup:
			s.reload()
		case err := <-failed:
			return errors.Join(err, s.drain(servers))
		case <-unmounted:
			if s.dav == nil {
				return s.drain(servers)
			}
			unmounted = nil // WebDAV goes on
		case <-ctx.Done():
			stop() // a second signal ends the process at once
			return s.drain(servers)
		}
	}
}

// announce tells the terminal, the log and the supervisor that all doors are open.
func (s *server) announce() {
	ready, facts := "engramfs: ready", []any{"data", s.data.dir, "version", programVersion()}
	for _, door := range []struct {
		open bool
		name string
		text func() string
	}{
		{s.dav != nil, "url", s.davURL},
		{s.admin != nil, "admin", s.adminURL},
		{s.mount != nil, "mount", func() string { return s.mount.Point() }},
	} {
		if door.open {
			ready += " " + door.name + "=" + door.text()
			facts = append(facts, door.name, door.text())
		}
	}
	fmt.Fprintln(s.out.stdout, ready)
	s.log.Info("serving", facts...)
	s.notify(daemon.SdNotifyReady)
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

// drain takes the mount away, stops accepting, lets running requests finish
// until the shutdown timeout, and then cuts off the rest.
func (s *server) drain(servers []*http.Server) error {
	s.notify(daemon.SdNotifyStopping)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if s.web != nil {
			s.web.Close() // its streams would not end by themselves
		}
	}()
	err := s.unmount()
	s.log.Info("draining", "timeout", s.cfg.ShutdownTime)
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.ShutdownTime)
	defer cancel()
	for _, h := range servers {
		if err := h.Shutdown(ctx); err != nil {
			s.log.Warn("requests were cut off", "err", err)
			_ = h.Close() // of connections that are given up
		}
	}
	select {
	case <-closed:
	case <-ctx.Done():
		s.log.Warn("a job of the admin API does not end")
	}
	return err
}

// reload reads the users file and the certificate again. What cannot be read
// stays as it is.
func (s *server) reload() {
	s.notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
	defer s.notify(daemon.SdNotifyReady)
	if s.auth != nil {
		users, err := s.cfg.users(s.data, s.log)
		switch {
		case err != nil:
			s.log.Error("users not reloaded", "err", err)
		case len(users) == 0:
			s.log.Error("users not reloaded", "err", "there would be none")
		default:
			s.auth.SetUsers(users)
			if s.web != nil {
				s.web.EndSessions()
			}
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

// close releases what open has got, the mount first and the folder's lock last.
func (s *server) close() error {
	errs := []error{s.unmount()} // of a server that failed to open; again, if it has served
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
	s.closeTracer()
	if s.audit != nil {
		errs = append(errs, s.audit.Close())
	}
	if s.crash != nil && s.orderly {
		s.crash.Close()
	}
	if s.data != nil {
		errs = append(errs, s.data.Close())
	}
	return errors.Join(errs...)
}

func (s *server) davHandler() http.Handler {
	dav := webdav.New(webdav.Options{
		Store: s.store, Prefix: s.cfg.Prefix, Logger: s.log, Principal: auth.Principal, Failed: s.tracer.Failed(),
	})
	s.monitor.dav.Store(dav)
	h := auth.Hosts(s.hosts(), dav)
	if s.auth != nil {
		h = s.auth.RequireDAV(dav)
	}
	return s.monitor.metrics.WebDAV(s.tracer.HTTP(tracing.WebDAV, h))
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
