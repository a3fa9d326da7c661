package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	headerTimeout = 30 * time.Second // for a request's header to arrive
	idleTimeout   = 3 * time.Minute  // of a connection between two requests
	maxHeader     = 64 << 10         // bytes of a request's header
)

// newHTTPServer returns a server whose requests may take as long as they move
// bytes: clientTimeout is per chunk, never for a whole request.
func newHTTPServer(h http.Handler, clientTimeout time.Duration, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           withDeadlines(h, clientTimeout),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// listen binds addr. The kernel ends a connection whose client has
// acknowledged nothing, or kept its window shut, for clientTimeout: that costs
// no call per answer, and leaves sendfile alone (TCP_USER_TIMEOUT, tcp(7)).
// Accepted sockets inherit the option.
func listen(ctx context.Context, addr string, clientTimeout time.Duration) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctl := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(clientTimeout.Milliseconds()))
		})
		return errors.Join(ctl, err)
	}}
	l, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, hint(err, "stop what listens there, or choose another address with --listen or --admin")
	}
	return l, err
}

// withDeadlines ends requests whose body stops arriving. Over HTTP/2, where
// many requests share a connection, it also ends answers that are not taken.
func withDeadlines(next http.Handler, timeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			b := &deadlineBody{body: r.Body, rc: http.NewResponseController(w), timeout: timeout}
			b.extend() // also for a body that no handler reads: net/http discards it
			// In a copy: net/http looks for its own body in its own request to
			// know that a refusal need not wait for what 100-continue holds back.
			r = r.WithContext(r.Context())
			r.Body = b
		}
		if r.ProtoMajor == 2 {
			w = &deadlineWriter{ResponseWriter: w, rc: http.NewResponseController(w), timeout: timeout}
		}
		next.ServeHTTP(w, r)
	})
}

// deadlineBody gives each read of a body a deadline of its own.
type deadlineBody struct {
	body    io.ReadCloser
	rc      *http.ResponseController
	timeout time.Duration
	set     time.Time // when the deadline was last moved
	ended   bool
}

// extend moves the deadline, but only when a good part of it is used up, as a
// body arrives in thousands of reads. Behind the body's end net/http drops the
// deadline and waits for the client to hang up: a new one would look like that.
func (b *deadlineBody) extend() {
	if now := time.Now(); !b.ended && now.Sub(b.set) > b.timeout/8 {
		b.set = now
		_ = b.rc.SetReadDeadline(now.Add(b.timeout)) // if the connection is gone, Read says so
	}
}

func (b *deadlineBody) Read(p []byte) (int, error) {
	b.extend()
	n, err := b.body.Read(p)
	b.ended = b.ended || err != nil
	return n, err
}

func (b *deadlineBody) Close() error { return b.body.Close() }

// deadlineWriter gives each write of an HTTP/2 answer a deadline of its own.
type deadlineWriter struct {
	http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration
	set     time.Time
}

func (w *deadlineWriter) Write(p []byte) (int, error) {
	if now := time.Now(); now.Sub(w.set) > w.timeout/8 {
		w.set = now
		_ = w.rc.SetWriteDeadline(now.Add(w.timeout)) // if the stream is gone, Write says so
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap serves http.ResponseController.
func (w *deadlineWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// certificate is a TLS certificate that can be read again while it is in use.
type certificate struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]
}

func (c *certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("TLS certificate: %w", err)
	}
	c.current.Store(&pair)
	return nil
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}
