package webdav

import (
	"net/http"
	"reflect"
	"testing"
	"time"

	"engramfs/store"
)

func TestParseTags(t *testing.T) {
	for _, tc := range []struct {
		in      []string
		any     bool
		tags    []string
		present bool
	}{
		{[]string{`"a"`}, false, []string{`"a"`}, true},
		{[]string{`W/"a"`}, false, []string{`W/"a"`}, true},
		{[]string{`"a", "b"`, `"c"`}, false, []string{`"a"`, `"b"`, `"c"`}, true},
		{[]string{`"a,b"`}, false, []string{`"a,b"`}, true},
		{[]string{`""`}, false, []string{`""`}, true},
		{[]string{"*"}, true, nil, true},
		{[]string{" * "}, true, nil, true},
		{[]string{"JoplinIgnore-1"}, false, nil, false},
		{[]string{`"a`}, false, nil, false},
		{[]string{`a"b"`}, false, nil, false},
		{[]string{`"a"b, "c"`}, false, []string{`"c"`}, true},
		{[]string{"\"a\x01\""}, false, nil, false},
		{[]string{"junk, *"}, true, nil, true},
		{[]string{","}, false, nil, false},
		{nil, false, nil, false},
	} {
		got := parseTags(tc.in)
		if got.any != tc.any || got.present != tc.present || !reflect.DeepEqual(got.tags, tc.tags) {
			t.Errorf("parseTags(%q) = %+v, want %+v", tc.in, got, tc)
		}
	}
}

func FuzzParseTags(f *testing.F) {
	f.Add(`"a", W/"b", *`)
	f.Add(`"a,b"junk,"`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, tag := range parseTags([]string{s}).tags {
			if again := parseTags([]string{tag}); len(again.tags) != 1 || again.tags[0] != tag {
				t.Fatalf("%q: tag %q is none: %+v", s, tag, again)
			}
		}
	})
}

func TestConditions(t *testing.T) {
	a := &store.Attr{Ino: 5, Gen: 1, Version: 3, Mtime: 1700000000_500000000, Mode: store.ModeRegular}
	tag, weak := a.ETag(), "W/"+a.ETag()
	at := func(d time.Duration) string {
		return time.Unix(1700000000, 0).Add(d).UTC().Format(http.TimeFormat)
	}
	const ok, no, unmodified = 200, 412, 304
	for _, tc := range []struct {
		name, value         string
		read, write, absent int // absent: a write where there is no resource
	}{
		{"If-Match", tag, ok, ok, no},
		{"If-Match", weak, no, no, no},
		{"If-Match", `"x"`, no, no, no},
		{"If-Match", `"x", ` + tag, ok, ok, no},
		{"If-Match", "*", ok, ok, no},
		{"If-Match", "junk", ok, ok, ok},
		{"If-None-Match", tag, unmodified, no, ok},
		{"If-None-Match", weak, unmodified, no, ok},
		{"If-None-Match", `"x"`, ok, ok, ok},
		{"If-None-Match", "*", unmodified, no, ok},
		{"If-None-Match", "JoplinIgnore-1", ok, ok, ok},
		{"If-Modified-Since", at(0), unmodified, ok, ok},
		{"If-Modified-Since", at(-time.Second), ok, ok, ok},
		{"If-Modified-Since", at(time.Hour) + "; length=5", unmodified, ok, ok},
		{"If-Modified-Since", "junk", ok, ok, ok},
		{"If-Unmodified-Since", at(0), ok, ok, ok},
		{"If-Unmodified-Since", at(-time.Second), no, no, ok},
		{"If-Unmodified-Since", "junk", ok, ok, ok},
	} {
		hd := http.Header{tc.name: {tc.value}}
		if got := readStatus(hd, a, tag); got != tc.read {
			t.Errorf("read %v = %d, want %d", hd, got, tc.read)
		}
		if got := writeAllowed(hd, a); got != (tc.write == ok) {
			t.Errorf("write %v = %v, want %d", hd, got, tc.write)
		}
		if got := writeAllowed(hd, nil); got != (tc.absent == ok) {
			t.Errorf("write %v to nothing = %v, want %d", hd, got, tc.absent)
		}
	}
	// RFC 9110 section 13.2.2: tags win over dates.
	hd := http.Header{"If-Match": {tag}, "If-Unmodified-Since": {at(-time.Hour)}}
	if got := readStatus(hd, a, tag); got != ok {
		t.Errorf("read %v = %d, want 200", hd, got)
	}
	hd = http.Header{"If-None-Match": {`"x"`}, "If-Modified-Since": {at(0)}}
	if got := readStatus(hd, a, tag); got != ok {
		t.Errorf("read %v = %d, want 200", hd, got)
	}
}

func TestIfRange(t *testing.T) {
	a := &store.Attr{Ino: 5, Gen: 1, Version: 3, Mtime: 1700000000_500000000}
	for value, want := range map[string]bool{
		"":                              true,
		a.ETag():                        true,
		"W/" + a.ETag():                 false,
		`"x"`:                           false,
		"Tue, 14 Nov 2023 22:13:20 GMT": true,
		"Tue, 14 Nov 2023 22:13:21 GMT": false,
		"Tue, 14 Nov 2023 22:13:19 GMT": false,
		"junk":                          false,
	} {
		hd := http.Header{}
		if value != "" {
			hd.Set("If-Range", value)
		}
		if got := rangeAllowed(hd, a, a.ETag()); got != want {
			t.Errorf("If-Range %q: %v, want %v", value, got, want)
		}
	}
}
