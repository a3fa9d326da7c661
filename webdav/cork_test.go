package webdav

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
)

// TestCorkHoldsNothingBack serves answers around the size of net/http's
// buffer over one connection: all arrive whole, none is held back.
func TestCorkHoldsNothingBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sizes := []int{0, 1, 100, httpBuffer - 400, httpBuffer - 1, httpBuffer, httpBuffer + 1, 2 * httpBuffer, 100_000, 1 << 20}
	body := make([]byte, 1<<20)
	for i := range body {
		body[i] = byte(i * 7)
	}
	srv := &http.Server{ConnContext: CorkContext, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(r.ContentLength)
		io.Copy(io.Discard, r.Body)
		corkAnswer(r, int64(n))
		w.Write(body[:n])
	})}
	go srv.Serve(CorkListener(l))
	t.Cleanup(func() { srv.Close() })
	for range 3 {
		for _, n := range sizes {
			resp, err := http.Post("http://"+l.Addr().String(), "application/octet-stream", bytes.NewReader(body[:n]))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || !bytes.Equal(got, body[:n]) {
				t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
			}
		}
	}
}

// TestCorkConnJoinsTwoWrites checks that what is held back leaves with the next
// write, in order, and that the count is that of the caller's bytes.
func TestCorkConnJoinsTwoWrites(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := CorkListener(l).Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := server.(*corkConn)
	for _, second := range []int{1, httpBuffer, httpBuffer + 1, 100_000} {
		c.cork()
		first, rest := bytes.Repeat([]byte{'a'}, httpBuffer), bytes.Repeat([]byte{'b'}, second)
		for _, p := range [][]byte{first, rest} {
			if n, err := c.Write(p); n != len(p) || err != nil {
				t.Fatalf("Write = %d, %v, want %d", n, err, len(p))
			}
		}
		got := make([]byte, len(first)+len(rest))
		if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, append(first, rest...)) {
			t.Fatalf("second write of %d bytes: content differs (%v)", second, err)
		}
	}
	c.cork()
	if _, err := c.Write([]byte("held")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.ReadFrom(bytes.NewReader([]byte(" and read"))); n != 9 || err != nil {
		t.Fatalf("ReadFrom = %d, %v", n, err)
	}
	got := make([]byte, 13)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "held and read" {
		t.Fatalf("got %q, %v", got, err)
	}
	c.Close()
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("Write after Close succeeded")
	}
}
