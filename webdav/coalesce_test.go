package webdav

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// coalescedPair returns both ends of a connection, the first one coalesced.
func coalescedPair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Coalesce(inner)
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	client.SetDeadline(time.Now().Add(10 * time.Second))
	return server, client
}

// TestCoalesceOrder: whatever the sizes, the bytes arrive in order, and those
// held back arrive with the next write, read, deadline or close.
func TestCoalesceOrder(t *testing.T) {
	for _, last := range []struct {
		name string
		do   func(net.Conn) error
	}{
		{"Close", net.Conn.Close},
		{"CloseWrite", func(c net.Conn) error { return c.(interface{ CloseWrite() error }).CloseWrite() }},
		{"SetReadDeadline", func(c net.Conn) error { return c.SetReadDeadline(time.Time{}) }},
		{"SetDeadline", func(c net.Conn) error { return c.SetDeadline(time.Time{}) }},
		{"ReadFrom", func(c net.Conn) error {
			_, err := c.(io.ReaderFrom).ReadFrom(strings.NewReader(""))
			return err
		}},
		{"Read", func(c net.Conn) error {
			c.(*coalescedConn).TCPConn.SetReadDeadline(time.Now().Add(-time.Second)) // beside the wrapper
			c.Read(make([]byte, 1))
			return nil
		}},
	} {
		t.Run(last.name, func(t *testing.T) {
			server, client := coalescedPair(t)
			var want bytes.Buffer
			for i, n := range []int{1, 4096, 300, 4096, 4096, 4096, 20_000, 5000, 4096} {
				p := bytes.Repeat([]byte{byte('a' + i)}, n)
				want.Write(p)
				if m, err := server.Write(p); m != n || err != nil {
					t.Fatalf("Write of %d bytes = %d, %v", n, m, err)
				}
			}
			if err := last.do(server); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, want.Len())
			if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want.Bytes()) {
				t.Errorf("content differs, %v", err)
			}
		})
	}
}

// TestCoalesceStuckClient: a client that takes nothing holds neither Close nor,
// after it, the writer up, and the writer is told.
func TestCoalesceStuckClient(t *testing.T) {
	server, _ := coalescedPair(t)
	failed := make(chan error, 1)
	go func() {
		for {
			for _, n := range []int{4096, 100_000, 4096, 300} {
				if _, err := server.Write(make([]byte, n)); err != nil {
					_, again := server.Write([]byte("x"))
					failed <- errors.Join(err, again)
					return
				}
			}
		}
	}()
	time.Sleep(100 * time.Millisecond) // until the buffers are full
	begin := time.Now()
	server.Close()
	select {
	case err := <-failed:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Write hangs")
	}
	if d := time.Since(begin); d > 4*time.Second {
		t.Errorf("Close took %v", d)
	}
}

// TestCoalesceHTTP asks for answers of all sizes around the buffer's on
// connections that stay open: none is held back when it is complete.
func TestCoalesceHTTP(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n int
		fmt.Sscanf(r.URL.Path, "/%d", &n)
		if r.URL.RawQuery == "" {
			w.Header().Set("Content-Length", fmt.Sprint(n))
		}
		w.Write(bytes.Repeat([]byte("x"), n))
	})}
	go srv.Serve(Coalesce(inner))
	defer srv.Close()
	c, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	br := bufio.NewReader(c)
	ask := func(n int, query string) {
		fmt.Fprintf(c, "GET /%d%s HTTP/1.1\r\nHost: x\r\n\r\n", n, query)
	}
	check := func(n int) {
		t.Helper()
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if body, err := io.ReadAll(resp.Body); len(body) != n || err != nil {
			t.Fatalf("%d bytes: got %d, %v", n, len(body), err)
		}
	}
	for n := 3700; n < 4200; n++ { // some of them fill the buffer to the last byte
		ask(n, "")
		check(n)
		ask(n, "?chunked")
		check(n)
	}
	for _, n := range []int{3980, 4096, 8192, 100_000} { // pipelined
		for range 3 {
			ask(n, "")
		}
		for range 3 {
			check(n)
		}
	}
}
