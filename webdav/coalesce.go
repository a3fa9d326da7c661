package webdav

import (
	"io"
	"net"
	"sync"
	"time"
)

// Coalesce returns a listener whose TCP connections send the header and the body
// of a small answer in one packet. It is for net/http's servers over plain TCP;
// other connections are passed through.
//
// net/http buffers 4,096 bytes per connection. An answer of 4 KiB and its header
// fill that buffer, which is sent, and leave some hundred bytes, which are sent
// again: two system calls here, two packets, and two reads at the client. A
// connection of this listener keeps a write of exactly one full buffer back until
// the next write, and sends both together.
//
// What is kept back leaves at the latest when the connection is read, gets a read
// deadline or is closed. After every answer net/http does one of these before it
// waits for anything. A handler that flushes in the middle of an answer may see
// up to 4,096 bytes leave only with its next write.
func Coalesce(l net.Listener) net.Listener { return coalescer{l} }

type coalescer struct{ net.Listener }

func (l coalescer) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok && err == nil {
		return &coalescedConn{TCPConn: tcp}, nil
	}
	return c, err
}

// fullBuffer is the size of net/http's write buffer.
const fullBuffer = 4 << 10

// closeWait bounds how long Close waits for a client that takes nothing.
const closeWait = time.Second

// coalescedConn is a connection of Coalesce's listener.
type coalescedConn struct {
	*net.TCPConn

	// mu protects the fields below, and the order of writes.
	mu   sync.Mutex
	held []byte // written, and not yet sent
	err  error  // of sending held, for the next Write
}

// Write implements net.Conn.
func (c *coalescedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return 0, c.err
	case len(c.held) == 0 && len(p) != fullBuffer:
		return c.TCPConn.Write(p)
	case len(c.held) == 0:
		c.held = append(c.held, p...)
		return len(p), nil
	case len(p) <= fullBuffer:
		c.held = append(c.held, p...)
		if c.sendLocked(); c.err != nil {
			return 0, c.err
		}
		return len(p), nil
	}
	before := int64(len(c.held))
	both := net.Buffers{c.held, p}
	n, err := both.WriteTo(c.TCPConn)
	c.held, c.err = c.held[:0], err
	return int(max(n-before, 0)), err
}

// send sends what is held.
func (c *coalescedConn) send() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sendLocked()
}

func (c *coalescedConn) sendLocked() {
	if len(c.held) == 0 || c.err != nil {
		return
	}
	_, c.err = c.TCPConn.Write(c.held)
	c.held = c.held[:0]
}

// Read implements net.Conn.
func (c *coalescedConn) Read(p []byte) (int, error) {
	c.send()
	return c.TCPConn.Read(p)
}

// ReadFrom keeps sendfile(2) open.
func (c *coalescedConn) ReadFrom(r io.Reader) (int64, error) {
	c.send()
	return c.TCPConn.ReadFrom(r)
}

// SetReadDeadline implements net.Conn.
func (c *coalescedConn) SetReadDeadline(t time.Time) error {
	c.send()
	return c.TCPConn.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *coalescedConn) SetDeadline(t time.Time) error {
	c.send()
	return c.TCPConn.SetDeadline(t)
}

// CloseWrite shuts the sending side down.
func (c *coalescedConn) CloseWrite() error {
	c.send()
	return c.TCPConn.CloseWrite()
}

// Close implements net.Conn. It does not wait for a Write that is stuck: closing
// is what ends it.
func (c *coalescedConn) Close() error {
	if c.mu.TryLock() {
		if len(c.held) > 0 {
			_ = c.TCPConn.SetWriteDeadline(time.Now().Add(closeWait)) // if it is closed, the write says so
			c.sendLocked()
		}
		c.mu.Unlock()
	}
	return c.TCPConn.Close()
}
