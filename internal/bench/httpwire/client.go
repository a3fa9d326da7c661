package httpwire

import (
	"io"
	"time"
)

// Client sends one request after the other over a connection that it opens
// when there is none. The zero value is not usable; see NewClient. It is not
// safe for concurrent use.
type Client struct {
	addr    string
	timeout time.Duration
	conn    *Conn
	used    time.Time
}

// maxIdle is how long a connection is kept without use. Servers close idle
// ones after five seconds and more; a request that races with that looks like
// a failed one.
const maxIdle = 2 * time.Second

// NewClient returns a client of the server at addr ("host:port") whose
// exchanges each fail after timeout (zero: never). Nothing is dialled yet.
func NewClient(addr string, timeout time.Duration) *Client {
	return &Client{addr: addr, timeout: timeout}
}

// Do is Conn.Do on a connection opened as needed. A connection is dropped when
// an exchange fails or the server says that it closes it. No request is sent
// twice: a write that got no answer may have happened, so whether to repeat it
// is the caller's decision.
func (c *Client) Do(req *Request, sink io.Writer) (*Response, error) {
	if time.Since(c.used) > maxIdle {
		c.Close()
	}
	if c.conn == nil {
		conn, err := Dial(c.addr, c.timeout)
		if err != nil {
			return nil, err
		}
		c.conn = conn
	}
	r, err := c.conn.Do(req, sink)
	c.used = time.Now()
	if err != nil || !r.Reusable() {
		c.Close()
	}
	return r, err
}

// Close drops the connection, if there is one.
func (c *Client) Close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}
