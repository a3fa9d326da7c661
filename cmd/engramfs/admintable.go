package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// page collects text for people and writes it at once. On a terminal some words
// have a colour, which says nothing that the word does not.
type page struct {
	strings.Builder
	w       io.Writer
	colours bool
}

func newPage(w io.Writer) *page {
	plain := os.Getenv("NO_COLOR") != "" // https://no-color.org
	return &page{w: w, colours: !plain && isTerminal(w)}
}

// printf adds text. Texts of the server go through visible before.
func (p *page) printf(format string, args ...any) { fmt.Fprintf(p, format, args...) }

func (p *page) flush() error {
	_, err := io.WriteString(p.w, p.String())
	return err
}

// visible escapes what is not printable: the name of a file must not be able to
// move the cursor of an administrator's terminal, nor to start a line.
func visible(s string) string {
	clean := true
	for _, r := range s {
		clean = clean && strconv.IsPrint(r)
	}
	if clean {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRune(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

// Colours of ECMA-48 (SGR).
const (
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	red    = "\x1b[31m"
	bold   = "\x1b[1m"
	end    = "\x1b[0m"
)

// wordColours is the colour of words that name a state or a result.
var wordColours = map[string]string{
	"ONLINE": green, "DEGRADED": yellow, "REBUILDING": yellow, "STUCK": red, "READ-ONLY": red, "UNKNOWN": red,
	"healthy": green, "poisoned": yellow, "stuck": red, "damaged": yellow, "read_only": red, "unknown": red,
	"done": green, "clean": green, "problems": yellow, "stopped": yellow, "failed": red, "panicked": red,
}

func (p *page) paint(colour, text string) string {
	if !p.colours || colour == "" {
		return text
	}
	return colour + text + end
}

// fact adds a line with a name and a value, unless that is empty.
func (p *page) fact(name, value string) {
	if value == "" {
		return
	}
	value = visible(value)
	p.printf("%-10s%s\n", name+":", p.paint(wordColours[value], value))
}

// facts adds a line for each value, and the name to the first.
func (p *page) facts(name string, values []string) {
	for i, v := range values {
		if i == 0 {
			p.fact(name, v)
			continue
		}
		p.printf("%-10s%s\n", "", visible(v))
	}
}

// table adds rows below a header, in columns, two spaces apart. Without rows it
// adds the words for none.
func (p *page) table(none string, header []string, rows [][]string) {
	if len(rows) == 0 {
		p.printf("%s\n", none)
		return
	}
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i := range row {
			row[i] = visible(cmp.Or(row[i], "-"))
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	p.row(widths, header, func(string) string { return bold })
	for _, row := range rows {
		p.row(widths, row, func(word string) string { return wordColours[word] })
	}
}

func (p *page) row(widths []int, row []string, colour func(word string) string) {
	for i, text := range row {
		p.printf("%s", p.paint(colour(text), text))
		if i < len(row)-1 {
			p.printf("%*s", widths[i]-utf8.RuneCountInString(text)+2, "")
		}
	}
	p.printf("\n")
}

// clock writes a time in UTC; "": there is none.
func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// clockOf is clock for a time that may not be known.
func clockOf(t *time.Time) string {
	if t == nil {
		return ""
	}
	return clock(*t)
}

// count writes a number; "": it is 0.
func count(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}
