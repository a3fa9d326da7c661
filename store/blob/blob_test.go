package blob

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseIDInvertsString(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var id ID
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "id"))
		if got, err := ParseID(id.String()); err != nil || got != id {
			rt.Fatalf("ParseID(%s) = %s, %v", id, got, err)
		}
	})
}

func TestParseIDRefuses(t *testing.T) {
	valid := strings.Repeat("0a", 16)
	for name, s := range map[string]string{
		"empty": "", "short": valid[2:], "long": valid + "00", "odd": valid[1:],
		"upper case": strings.ToUpper(valid), "not hex": "zz" + valid[2:], "path": "../" + valid[3:],
	} {
		if id, err := ParseID(s); err == nil {
			t.Errorf("%s: ParseID(%q) = %s, want an error", name, s, id)
		}
	}
}

func TestNewID(t *testing.T) {
	seen := map[ID]bool{}
	for range 1000 {
		id := NewID()
		if id.IsZero() || seen[id] {
			t.Fatalf("NewID returned %s again", id)
		}
		seen[id] = true
	}
	if !(ID{}).IsZero() {
		t.Error("the zero ID is not IsZero")
	}
}
