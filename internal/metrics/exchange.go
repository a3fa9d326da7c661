package metrics

import (
	"io"
	"net/http"
)

// exchange is an answer whose status and length are noted, and the body of its
// request.
type exchange struct {
	http.ResponseWriter
	code int   // 0: not yet, or 200 if something was written
	out  int64 // bytes of the answer's body
	body countedBody
}

var (
	_ io.ReaderFrom = (*exchange)(nil)
	_ io.Writer     = (*exchange)(nil)
)

func (x *exchange) WriteHeader(code int) {
	if x.code == 0 && code >= 200 { // the others are not final
		x.code = code
	}
	x.ResponseWriter.WriteHeader(code)
}

func (x *exchange) Write(p []byte) (int, error) {
	n, err := x.ResponseWriter.Write(p)
	x.out += int64(n)
	return n, err
}

// ReadFrom keeps net/http's sendfile path open.
func (x *exchange) ReadFrom(src io.Reader) (n int64, err error) {
	if to, ok := x.ResponseWriter.(io.ReaderFrom); ok {
		n, err = to.ReadFrom(src)
	} else {
		n, err = io.Copy(x.ResponseWriter, src)
	}
	x.out += n
	return n, err
}

// Unwrap serves http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// countedBody counts what is read of a request's body.
type countedBody struct {
	io.ReadCloser
	n int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}
