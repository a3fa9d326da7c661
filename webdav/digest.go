package webdav

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"

	"engramfs/store"
)

// digestKeys are the algorithms of RFC 9530 that are known here. SHA-1 and MD5 are
// registered as deprecated: verified if a client sends them, sent if it asks.
var digestKeys = map[string]store.Hash{
	"sha-256": store.SHA256,
	"sha-512": store.SHA512,
	"sha":     store.SHA1,
	"md5":     store.MD5,
}

// digestPreference is what Want-Repr-Digest falls back on, best first.
var digestPreference = [...]string{"sha-256", "sha-512", "sha", "md5"}

// claim is a digest that a client says its upload has.
type claim struct {
	field string // the header's name
	key   string // the algorithm, as the field names it
	hash  store.Hash
	sum   []byte
	value string // as it was sent
}

// claims are the digests that an upload is held against.
type claims []claim

// parseClaims returns the digests that the header, or the trailer, of a PUT
// announces: Repr-Digest and Content-Digest (RFC 9530; of a whole file they are the
// same), Content-MD5 (RFC 1864), and OC-Checksum of ownCloud's clients and rclone.
// The error is a *digestError, or a 400 for what does not parse.
func parseClaims(hd http.Header) (list claims, err error) {
	var bad digestError
	for _, field := range [...]string{"Repr-Digest", "Content-Digest"} {
		v := hd[field]
		if len(v) == 0 {
			continue
		}
		members, ok := parseDigests(strings.Join(v, ","))
		if !ok {
			return nil, badRequest("malformed " + field)
		}
		known := false
		for _, m := range members {
			if h, ok := digestKeys[m.key]; ok {
				known = true
				list = append(list, claim{field, m.key, h, m.sum, ":" + base64.StdEncoding.EncodeToString(m.sum) + ":"})
			}
		}
		if !known { // what the client relies on would not be checked
			bad.kind = digestUnsupported
			for _, m := range members {
				bad.items = append(bad.items, digestItem{Algorithm: m.key, Header: field})
			}
		}
	}
	if bad.kind != "" {
		return nil, &bad
	}
	if v := hd["Content-Md5"]; len(v) > 0 {
		sum, err := base64.StdEncoding.DecodeString(strings.TrimSpace(v[0]))
		if err != nil {
			return nil, badRequest("malformed Content-MD5")
		}
		list = append(list, claim{"Content-MD5", "md5", store.MD5, sum, v[0]})
	}
	if v := hd["Oc-Checksum"]; len(v) > 0 {
		more, err := parseOCChecksum(v[0])
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, list.checkSizes()
}

// parseOCChecksum parses "SHA1:<hex>", or several of these apart by spaces.
// Algorithms that are not known are passed over: ownCloud's own server stores them
// unseen.
func parseOCChecksum(s string) (list claims, err error) {
	for item := range strings.FieldsSeq(s) {
		name, digits, ok := strings.Cut(item, ":")
		if !ok {
			return nil, badRequest("malformed OC-Checksum")
		}
		var h store.Hash
		switch strings.ToUpper(name) {
		case "SHA1":
			h = store.SHA1
		case "MD5":
			h = store.MD5
		case "SHA256":
			h = store.SHA256
		default:
			continue
		}
		sum, err := hex.DecodeString(digits)
		if err != nil {
			return nil, badRequest("malformed OC-Checksum")
		}
		list = append(list, claim{"OC-Checksum", name, h, sum, item})
	}
	return list, nil
}

// checkSizes returns a *digestError for digests that nothing can have.
func (list claims) checkSizes() error {
	bad := digestError{kind: digestInvalid}
	for _, c := range list {
		if len(c.sum) != c.hash.Size() {
			bad.items = append(bad.items, digestItem{
				Algorithm: c.key, Header: c.field, Reason: "digest value is not " + strconv.Itoa(c.hash.Size()) + " bytes long",
			})
		}
	}
	if bad.items != nil {
		return &bad
	}
	return nil
}

// verify returns a *digestError if d is not what is claimed, or lacks a hash: one that only
// a trailer asks for which was not announced.
func (list claims) verify(d *store.Digests) error {
	bad, late := digestError{kind: digestMismatched}, digestError{kind: digestUnsupported}
	for _, c := range list {
		switch {
		case d[c.hash] == nil:
			late.items = append(late.items, digestItem{Algorithm: c.key, Header: c.field})
		case !bytes.Equal(d[c.hash], c.sum):
			bad.items = append(bad.items, digestItem{Algorithm: c.key, Header: c.field, Provided: c.value})
		}
	}
	switch {
	case bad.items != nil:
		return &bad
	case late.items != nil:
		return &late
	}
	return nil
}

// digestMember is a member of a Repr-Digest or Content-Digest field.
type digestMember struct {
	key string
	sum []byte
}

// parseDigests parses a dictionary of byte sequences (RFC 9651 sections 3.2 and
// 3.3.5). Of a key that comes twice the last one counts; parameters are passed over.
func parseDigests(s string) (list []digestMember, ok bool) {
	ok = parseDictionary(s, func(key, value string) bool {
		if len(value) < 2 || value[0] != ':' || value[len(value)-1] != ':' {
			return false
		}
		sum, err := base64.StdEncoding.DecodeString(value[1 : len(value)-1])
		if err != nil {
			return false
		}
		for i := range list {
			if list[i].key == key {
				list[i].sum = sum
				return true
			}
		}
		list = append(list, digestMember{key, sum})
		return true
	})
	return list, ok
}

// parseDictionary calls fn for each member of a dictionary whose values are byte
// sequences or integers, until fn returns false. It reports whether s is one.
func parseDictionary(s string, fn func(key, value string) bool) bool {
	for item := range strings.SplitSeq(s, ",") { // a comma is in neither kind of value
		item, _, _ = strings.Cut(item, ";")
		item = strings.Trim(item, " \t")
		key, value, _ := strings.Cut(item, "=")
		if !isDictionaryKey(key) || !fn(key, value) {
			return false
		}
	}
	return true
}

// isDictionaryKey reports whether s is a key (RFC 9651 section 3.1.2).
func isDictionaryKey(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		first := 'a' <= c && c <= 'z' || c == '*'
		if !first && (i == 0 || !('0' <= c && c <= '9' || c == '_' || c == '-' || c == '.')) {
			return false
		}
	}
	return s != ""
}

// wantedDigests returns the algorithms that Want-Repr-Digest accepts, best first
// (RFC 9530 section 4). Without the field, or with one that does not parse, that is
// sha-256; it also is if the field names nothing that is known, unless it refuses it.
func wantedDigests(hd http.Header) (keys []string) {
	fallback := digestPreference[:1]
	v := hd["Want-Repr-Digest"]
	if len(v) == 0 {
		return fallback
	}
	weights := map[string]int{}
	if !parseDictionary(strings.Join(v, ","), func(key, value string) bool {
		n, err := strconv.Atoi(value)
		weights[key] = n
		return err == nil && 0 <= n && n <= 10
	}) {
		return fallback
	}
	for weight := 10; weight > 0; weight-- {
		for _, key := range digestPreference {
			if weights[key] == weight {
				keys = append(keys, key)
			}
		}
	}
	if _, named := weights["sha-256"]; !named {
		keys = append(keys, "sha-256")
	}
	return keys
}

// reprDigest returns the Repr-Digest of c, "" if none that is wanted is known. An
// error matches store.ErrChanged if c is being written.
func reprDigest(hd http.Header, c *store.Content) (string, error) {
	keys := wantedDigests(hd)
	if len(keys) == 0 {
		return "", nil
	}
	d, err := c.Digests(digestKeys[keys[0]]) // of large content what is known
	if err != nil {
		return "", err
	}
	for _, key := range keys {
		if sum := d[digestKeys[key]]; sum != nil {
			b := append(make([]byte, 0, 64), key...)
			b = append(b, "=:"...)
			b = base64.StdEncoding.AppendEncode(b, sum)
			return string(append(b, ':')), nil
		}
	}
	return "", nil
}

// appendOCChecksums appends the value of oc:checksums as rclone and ownCloud's
// clients read it; false if no digest is known.
func appendOCChecksums(b []byte, d *store.Digests) ([]byte, bool) {
	mark := len(b)
	b = append(b, "<p:checksum>"...)
	sep := ""
	for _, a := range [...]struct {
		name string
		hash store.Hash
	}{{"SHA1:", store.SHA1}, {"MD5:", store.MD5}, {"SHA256:", store.SHA256}} {
		if sum := d[a.hash]; sum != nil {
			b = append(append(b, sep...), a.name...)
			b = hex.AppendEncode(b, sum)
			sep = " "
		}
	}
	if sep == "" {
		return b[:mark], false
	}
	return append(b, "</p:checksum>"...), true
}
