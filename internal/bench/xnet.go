package main

import (
	"context"
	"flag"
	"io"
	"net/http"

	"golang.org/x/net/webdav"
)

// serveXNet is the peer "x/net raw": the library's own directory and memory
// locks with nothing around them. It takes the flags of the project's server
// that it can honour, so that the same code starts either, and serves until ctx
// is done.
func serveXNet(ctx context.Context, args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet("xnet", flag.ContinueOnError)
	fs.SetOutput(stderr)
	data := fs.String("data", ".", "folder to serve")
	listen := fs.String("listen", "127.0.0.1:8080", "address to serve WebDAV at")
	admin := fs.String("admin", "", "address to answer health checks at (none if empty)")
	prefix := fs.String("prefix", "", "path to serve under")
	fs.Bool("anonymous", true, "accepted and without effect: there are no users")
	if err := fs.Parse(args); err != nil {
		return err
	}
	failed := make(chan error, 2)
	if *admin != "" {
		health := http.NewServeMux()
		health.HandleFunc("GET /api/v1/health", func(http.ResponseWriter, *http.Request) {})
		go func() { failed <- http.ListenAndServe(*admin, health) }()
	}
	handler := &webdav.Handler{Prefix: *prefix, FileSystem: webdav.Dir(*data), LockSystem: webdav.NewMemLS()}
	go func() { failed <- http.ListenAndServe(*listen, handler) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}
