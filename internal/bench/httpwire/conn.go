// Package httpwire is an HTTP/1.1 client over one kept-alive connection that
// spends as little CPU as it can, so that a load test on a small machine
// measures the server and not its own client.
//
// It understands what file servers answer: Content-Length, chunked and
// close-delimited bodies, interim 1xx answers and bodiless statuses. It does
// not follow redirects, decompress or pool.
package httpwire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"
)

// ErrProtocol is returned when an answer is not HTTP/1.x as this package
// understands it.
var ErrProtocol = errors.New("httpwire: malformed answer")

// readBuffer is the size of one read from the socket: large bodies move in
// pieces of this size and skip the line reader's buffer.
const readBuffer = 256 << 10

// Conn is one connection to a server. It is not safe for concurrent use.
type Conn struct {
	addr    string
	timeout time.Duration
	nc      net.Conn
	br      *bufio.Reader
	out     []byte
	big     []byte
}

// Dial connects to addr ("host:port"). Every later exchange that takes longer
// than timeout fails with a net.Error whose Timeout is true; zero means no
// limit.
func Dial(addr string, timeout time.Duration) (*Conn, error) {
	nc, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return &Conn{addr: addr, timeout: timeout, nc: nc, br: bufio.NewReaderSize(nc, 16<<10)}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.nc.Close() }

// Request is one request. Path is sent as it is, so it must be escaped.
type Request struct {
	Method string
	Path   string
	// Header holds whole lines without the line end: "Depth: 1".
	Header []string
	// Body is sent with its length. Stream replaces it for bodies that are
	// too large to hold, and then Length says how many bytes it writes.
	Body   []byte
	Stream io.WriterTo
	Length int64
}

// Response is the head of an answer and what is known of its body.
type Response struct {
	Status int
	// Size is the number of body bytes read.
	Size int64
	// FirstByte is the time from the last request byte to the status line.
	FirstByte time.Duration

	head  []byte
	close bool
}

// Header returns the first value of the named header, or "".
func (r *Response) Header(name string) string {
	for line := range strings.Lines(string(r.head)) {
		k, v, ok := strings.Cut(line, ":")
		if ok && strings.EqualFold(k, name) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// OK reports whether the status is 2xx.
func (r *Response) OK() bool { return r.Status >= 200 && r.Status < 300 }

// AppendRequest appends the wire form of a request without a streamed body,
// for callers that render once and send many times with Roundtrip.
func AppendRequest(dst []byte, host string, req *Request) []byte {
	dst = append(dst, req.Method...)
	dst = append(dst, ' ')
	dst = append(dst, req.Path...)
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, host...)
	dst = append(dst, "\r\n"...)
	for _, h := range req.Header {
		dst = append(dst, h...)
		dst = append(dst, "\r\n"...)
	}
	n := int64(len(req.Body))
	if req.Stream != nil {
		n = req.Length
	}
	if n > 0 || req.Stream != nil || req.Method == "PUT" || req.Method == "POST" {
		dst = append(dst, "Content-Length: "...)
		dst = strconv.AppendInt(dst, n, 10)
		dst = append(dst, "\r\n"...)
	}
	dst = append(dst, "\r\n"...)
	return append(dst, req.Body...)
}

// Do sends req and copies the body of the answer to sink (nil discards it).
// An error means that the exchange is incomplete and that the connection is of
// no more use; a status of any kind is not an error.
func (c *Conn) Do(req *Request, sink io.Writer) (*Response, error) {
	c.out = AppendRequest(c.out[:0], c.addr, req)
	if err := c.arm(); err != nil {
		return nil, err
	}
	if _, err := c.nc.Write(c.out); err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	if req.Stream != nil {
		if _, err := req.Stream.WriteTo(c.nc); err != nil {
			return nil, fmt.Errorf("write body: %w", err)
		}
	}
	return c.read(req.Method, sink)
}

// Roundtrip sends a request rendered by AppendRequest and discards the body of
// the answer. method is the request's method, which decides whether an answer
// has a body at all.
func (c *Conn) Roundtrip(method string, rendered []byte) (*Response, error) {
	if err := c.arm(); err != nil {
		return nil, err
	}
	if _, err := c.nc.Write(rendered); err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	return c.read(method, nil)
}

func (c *Conn) arm() error {
	if c.timeout == 0 {
		return nil
	}
	return c.nc.SetDeadline(time.Now().Add(c.timeout))
}

// read reads one answer, skipping interim 1xx ones.
func (c *Conn) read(method string, sink io.Writer) (*Response, error) {
	sent := time.Now()
	for {
		r, err := c.readHead()
		if err != nil {
			return nil, err
		}
		if r.Status >= 100 && r.Status < 200 {
			continue
		}
		r.FirstByte = time.Since(sent)
		if err := c.readBody(method, r, sink); err != nil {
			return r, fmt.Errorf("read body: %w", err)
		}
		return r, nil
	}
}

func (c *Conn) readHead() (*Response, error) {
	line, err := c.br.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("read status line: %w", err)
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return nil, fmt.Errorf("%w: status line %q", ErrProtocol, line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return nil, fmt.Errorf("%w: status line %q", ErrProtocol, line)
	}
	r := &Response{Status: status, close: line[7] == '0'}
	for {
		line, err := c.br.ReadSlice('\n')
		if err != nil {
			return nil, fmt.Errorf("read header: %w", err)
		}
		if len(line) <= 2 {
			return r, nil
		}
		r.head = append(r.head, line...)
	}
}

// readBody reads the body as RFC 9112 section 6.3 delimits it.
func (c *Conn) readBody(method string, r *Response, sink io.Writer) error {
	if method == "HEAD" || r.Status == 204 || r.Status == 304 {
		return nil
	}
	if strings.EqualFold(r.Header("Transfer-Encoding"), "chunked") {
		return c.readChunked(r, sink)
	}
	length := int64(-1)
	if v := r.Header("Content-Length"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return fmt.Errorf("%w: Content-Length %q", ErrProtocol, v)
		}
		length = n
	}
	return c.copyBody(c.br, length, r, sink)
}

func (c *Conn) readChunked(r *Response, sink io.Writer) error {
	if err := c.copyBody(httputil.NewChunkedReader(c.br), -1, r, sink); err != nil {
		return err
	}
	for { // The trailer ends with an empty line.
		line, err := c.br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			return nil
		}
	}
}

// copyBody copies length bytes, or everything when length is negative.
func (c *Conn) copyBody(src io.Reader, length int64, r *Response, sink io.Writer) error {
	if c.big == nil && length != 0 {
		c.big = make([]byte, readBuffer)
	}
	for length < 0 || r.Size < length {
		p := c.big
		if length >= 0 && length-r.Size < int64(len(p)) {
			p = p[:length-r.Size]
		}
		n, err := src.Read(p)
		r.Size += int64(n)
		if sink != nil && n > 0 {
			if _, werr := sink.Write(p[:n]); werr != nil {
				return werr
			}
		}
		if err == io.EOF && length < 0 {
			return nil
		}
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Reusable reports whether the server keeps the connection open after r.
func (r *Response) Reusable() bool {
	return !r.close && !strings.EqualFold(r.Header("Connection"), "close")
}
