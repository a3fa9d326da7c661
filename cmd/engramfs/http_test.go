package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

const testTimeout = 300 * time.Millisecond

// serveHandler serves h with a short client timeout and returns the address.
func serveHandler(t *testing.T, h http.HandlerFunc, cert *certificate) string {
	t.Helper()
	l, err := listen(t.Context(), "127.0.0.1:0", testTimeout)
	if err != nil {
		t.Fatal(err)
	}
	s := newHTTPServer(h, testTimeout, slog.New(slog.DiscardHandler))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if cert == nil {
			s.Serve(l)
			return
		}
		s.TLSConfig = cert.config()
		s.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() { s.Close(); <-ended })
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("it did not happen within 10 s")
		panic("unreachable")
	}
}

func TestBodyThatStopsArrivingEnds(t *testing.T) {
	got := make(chan error, 1)
	addr := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		got <- err
	}, nil)
	fmt.Fprint(dial(t, addr), "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
	err := receive(t, got)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read of the body = %v, want a timeout", err)
	}
}

func TestBodyThatKeepsArrivingMayTakeLongerThanTheTimeout(t *testing.T) {
	got := make(chan error, 1)
	addr := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		got <- err
	}, nil)
	c := dial(t, addr)
	fmt.Fprint(c, "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
	for range 10 {
		time.Sleep(testTimeout / 4)
		fmt.Fprint(c, "x")
	}
	if err := receive(t, got); err != nil {
		t.Errorf("read of the body = %v", err)
	}
}

// A handler that works for long after the body must not see its client as gone.
func TestSlowHandlerKeepsItsClient(t *testing.T) {
	got := make(chan error, 1)
	addr := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		time.Sleep(testTimeout / 2)
		io.Copy(io.Discard, r.Body) // once more, behind the end
		time.Sleep(3 * testTimeout)
		got <- r.Context().Err()
	}, nil)
	c := dial(t, addr)
	fmt.Fprint(c, "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
	if err := receive(t, got); err != nil {
		t.Errorf("the request's context = %v", err)
	}
	if status, err := bufio.NewReader(c).ReadString('\n'); !strings.Contains(status, "200") {
		t.Errorf("answer = %q, %v", status, err)
	}
}

// net/http discards what a handler leaves of a body, and must not wait for ever.
func TestUnreadBodyThatNeverArrivesEnds(t *testing.T) {
	addr := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
	}, nil)
	c := dial(t, addr)
	fmt.Fprint(c, "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("the connection was not closed: %v", err)
	}
}

func TestClientThatStopsReadingIsDisconnected(t *testing.T) {
	got := make(chan error, 1)
	addr := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 1<<20)
		for {
			if _, err := w.Write(chunk); err != nil {
				got <- err
				return
			}
		}
	}, nil)
	c := dial(t, addr)
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if err := receive(t, got); err == nil {
		t.Error("writes went on")
	}
}

func TestHTTP2StreamThatIsNotReadEnds(t *testing.T) {
	certFile, keyFile := newCertificate(t)
	cert := &certificate{certFile: certFile, keyFile: keyFile}
	if err := cert.load(); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	addr := serveHandler(t, func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 1<<20)
		for {
			if _, err := w.Write(chunk); err != nil {
				got <- err
				return
			}
		}
	}, cert)
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	answer, err := (&http.Client{Transport: tr}).Get("https://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.ProtoMajor != 2 {
		t.Fatalf("answered over %s", answer.Proto)
	}
	if err := receive(t, got); err == nil {
		t.Error("writes went on")
	}
}

func TestCertificateIsReadAgain(t *testing.T) {
	certFile, keyFile := newCertificate(t)
	c := &certificate{certFile: certFile, keyFile: keyFile}
	if err := c.load(); err != nil {
		t.Fatal(err)
	}
	first := c.current.Load()
	put(t, certFile, "junk")
	if err := c.load(); err == nil || c.current.Load() != first {
		t.Errorf("load of junk = %v, certificate replaced: %t", err, c.current.Load() != first)
	}
	c.certFile, c.keyFile = newCertificate(t)
	if err := c.load(); err != nil || c.current.Load() == first {
		t.Errorf("load of a new one = %v", err)
	}
}
