package main

import (
	"io"
	"log/slog"
	"os"

	"github.com/lmittmann/tint"
	"golang.org/x/sys/unix"
)

// newLogger returns the logger of a server. Format auto is tinted text on a
// terminal and JSON elsewhere; text is tinted on a terminal only.
func newLogger(w io.Writer, format, level string) *slog.Logger {
	var l slog.Level
	if l.UnmarshalText([]byte(level)) != nil {
		l = slog.LevelInfo // not reached: the flag is an enumeration
	}
	terminal := isTerminal(w)
	if format == "json" || format == "auto" && !terminal {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l}))
	}
	_, plain := os.LookupEnv("NO_COLOR") // https://no-color.org
	return slog.New(tint.NewTextHandler(w, &tint.Options{Level: l, NoColor: plain || !terminal}))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
