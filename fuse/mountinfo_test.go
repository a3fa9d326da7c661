package fuse

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindTopMount(t *testing.T) {
	const table = `21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 21 0:50 / /mnt/a\040b rw,nosuid shared:20 master:3 - fuse.engramfs my\040files rw,user_id=0
43 42 0:53 / /stack rw - fuse.engramfs engramfs rw
41 21 0:51 / /stack rw - tmpfs none rw
42 41 0:52 / /stack rw - fuse.engramfs engramfs rw
`
	for _, c := range []struct {
		point, dev, fsType, source string
	}{
		{"/", "8:1", "ext4", "/dev/vda"},
		{"/mnt/a b", "0:50", "fuse.engramfs", "my files"},
		{"/stack", "0:53", "fuse.engramfs", "engramfs"},
		{"/mnt", "", "", ""},
	} {
		m, ok, err := findTopMount(strings.NewReader(table), c.point)
		if err != nil || ok != (c.dev != "") || m.dev != c.dev || m.fsType != c.fsType || m.source != c.source {
			t.Errorf("%s: %+v, %t, %v", c.point, m, ok, err)
		}
	}
	for _, line := range []string{"nonsense", "1 2 3 - x", "a 1 0:1 / /x rw - t s", "1 b 0:1 / /x rw - t s"} {
		if _, _, err := findTopMount(strings.NewReader(line+"\n"), "/"); err == nil {
			t.Errorf("%q is accepted", line)
		}
	}
}

func TestUserAllowOther(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "#user_allow_other\n": false, "user_allow_other\n": true, " user_allow_other # yes": true,
		"mount_max = 1000\nuser_allow_other": true, "user_allow_others\n": false,
	} {
		conf := filepath.Join(t.TempDir(), "fuse.conf")
		must(t, os.WriteFile(conf, []byte(text), 0o644))
		if got := userAllowOther(conf); got != want {
			t.Errorf("%q: %t, want %t", text, got, want)
		}
	}
	if userAllowOther("/does/not/exist") {
		t.Error("a missing fuse.conf allows")
	}
}
