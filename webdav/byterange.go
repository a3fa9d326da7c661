package webdav

import (
	"strconv"
	"strings"
)

// maxRanges is how many ranges of one request are answered. A client that
// wants more gets the whole file: many small ranges cost more than it does.
const maxRanges = 32

// parseRange parses a Range header for content of size bytes (RFC 9110
// section 14.1). ok is false when the header is to be ignored: not of bytes,
// malformed, of too many ranges, or of more bytes than the content has. When
// ok, no ranges mean that none can be satisfied: 416.
func parseRange(s string, size int64) (ranges []byteRange, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes=")
	if !ok || strings.Count(s, ",") >= maxRanges {
		return nil, false
	}
	var total int64
	for spec := range strings.SplitSeq(s, ",") {
		if spec = strings.TrimSpace(spec); spec == "" {
			continue
		}
		br, satisfiable, valid := parseRangeSpec(spec, size)
		if !valid {
			return nil, false
		}
		if satisfiable {
			ranges = append(ranges, br)
			total += br.n
		}
	}
	return ranges, len(ranges) < 2 || total <= size
}

// parseRangeSpec parses "first-last", "first-" or "-suffix".
func parseRangeSpec(spec string, size int64) (br byteRange, satisfiable, valid bool) {
	first, last, ok := strings.Cut(spec, "-")
	if !ok {
		return br, false, false
	}
	if first == "" {
		n, ok := parsePosition(last)
		n = min(n, size)
		return byteRange{size - n, n}, n > 0, ok
	}
	from, ok := parsePosition(first)
	if !ok {
		return br, false, false
	}
	to := size - 1
	if last != "" {
		if to, ok = parsePosition(last); !ok || to < from {
			return br, false, false
		}
		to = min(to, size-1)
	}
	return byteRange{from, to - from + 1}, from < size, true
}

// parsePosition parses 1*DIGIT; a number too large for int64 is the largest.
func parsePosition(s string) (int64, bool) {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, s != "" && (err == nil || n > 0)
}
