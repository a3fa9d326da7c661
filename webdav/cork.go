package webdav

import (
	"context"
	"io"
	"net"
	"net/http"
)

// httpBuffer is the size of the buffer that net/http puts before a connection.
// An answer that is longer leaves in at least two writes: the full buffer, then
// the rest. For small files the second system call is a good part of the cost.
const httpBuffer = 4 << 10

// corkConn is a connection that can hold one write back, so that it leaves
// together with the next one. Like net/http it expects one writer at a time.
type corkConn struct {
	*net.TCPConn
	corked bool
	held   []byte
}

// cork holds the next write back. The caller knows for certain that another
// one will follow it.
func (c *corkConn) cork() { c.corked = true }

func (c *corkConn) Write(p []byte) (int, error) {
	if c.corked {
		c.corked = false
		c.held = append(c.held[:0], p...)
		return len(p), nil
	}
	if len(c.held) == 0 {
		return c.TCPConn.Write(p)
	}
	held := len(c.held)
	var n int64
	var err error
	if len(p) <= httpBuffer {
		c.held = append(c.held, p...)
		var m int
		m, err = c.TCPConn.Write(c.held)
		n = int64(m)
	} else {
		both := net.Buffers{c.held, p}
		n, err = both.WriteTo(c.TCPConn)
	}
	c.held = c.held[:0]
	return max(int(n)-held, 0), err
}

// ReadFrom keeps sendfile available to net/http.
func (c *corkConn) ReadFrom(r io.Reader) (int64, error) {
	c.corked = false
	if len(c.held) > 0 {
		if _, err := c.Write(nil); err != nil {
			return 0, err
		}
	}
	return c.TCPConn.ReadFrom(r)
}

type corkListener struct{ net.Listener }

func (l corkListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return &corkConn{TCPConn: tcp}, err
	}
	return c, err
}

// CorkListener returns l with connections that send the header and the content
// of a small file in one packet. It is for servers without TLS, and takes effect
// with CorkContext.
func CorkListener(l net.Listener) net.Listener { return corkListener{l} }

type corkKey struct{}

// CorkContext is the http.Server.ConnContext that goes with CorkListener.
func CorkContext(ctx context.Context, c net.Conn) context.Context {
	if c, ok := c.(*corkConn); ok {
		return context.WithValue(ctx, corkKey{}, c)
	}
	return ctx
}

// corkAnswer lets the first write of an answer with n bytes of content wait for
// the second one, which comes for certain if the content alone fills net/http's
// buffer. Who gives another answer instead must call uncork before.
func corkAnswer(r *http.Request, n int64) {
	if n < httpBuffer || r.ProtoMajor != 1 {
		return
	}
	if c, ok := r.Context().Value(corkKey{}).(*corkConn); ok {
		c.cork()
	}
}

// uncork takes corkAnswer back before anything was written.
func uncork(r *http.Request) {
	if c, ok := r.Context().Value(corkKey{}).(*corkConn); ok {
		c.corked = false
	}
}
