package web

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"engramfs/store"
	"engramfs/store/poison"
)

// A list of damaged content that does not come in time is not an empty one.
func TestDamageThatIsNotToldInTime(t *testing.T) {
	f := newRich()
	f.locks, f.tell = f.locks[:3], make(chan struct{})
	defer close(f.tell)
	f.damage = []store.Damage{{Path: "/a", Ino: 4, Kind: store.DamagedContent, At: now}}
	o := richOptions(f)
	a := New(o)
	defer a.Close()
	h := a.health()
	if h.Status != Unknown || len(h.Troubles) != 1 || h.Troubles[0].Kind != "unknown" || h.Damaged != nil {
		t.Errorf("not told: %s %+v, damaged %v", h.Status, h.Troubles, h.Damaged)
	}
	if code, _, body := probed(a, "/readyz?verbose"); code != http.StatusOK || !strings.Contains(body, "[!]not-damaged warn: "+damageUnknown) {
		t.Errorf("GET /readyz = %d\n%s", code, body)
	}
	if _, _, body := probed(a, "/api/v1/health", "Accept", healthMedia); !strings.Contains(body, `"status":"warn"`) || strings.Contains(body, "content:damaged") {
		t.Errorf("health+json: %s", body)
	}
	if page := serve(a, "GET", "/", "").Body.String(); strings.Contains(page, "All is well") || !strings.Contains(page, "The health cannot be told") {
		t.Error("the page does not say that the content is unknown")
	}
	f.tell <- struct{}{}
	var again Health
	for end := time.Now().Add(10 * time.Second); again.Status != Degraded && time.Now().Before(end); {
		again = a.health()
	}
	again = a.health() // is not told again
	if again.Status != Degraded || again.Damaged == nil || *again.Damaged != 1 {
		t.Errorf("told before: %s, damaged %v", again.Status, again.Damaged)
	}
	o.DegradedNotReady = true
	strict := New(o)
	defer strict.Close()
	if code, _, body := probed(strict, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "[-]not-damaged fail") {
		t.Errorf("strict: GET /readyz = %d\n%s", code, body)
	}
}

// What cannot be told comes before a copy that is late, and nobody is told that all
// else is served.
func TestHeadlineWhileSomethingIsUnknown(t *testing.T) {
	poisoned := newRich().locks[3]
	for name, c := range map[string]struct {
		setup func(*rich)
		want  string
	}{
		"second-copy": {func(*rich) {}, "The health cannot be told."},
		"poisoned":    {func(f *rich) { f.locks = append(f.locks, poisoned) }, "Changes to /photos/2024 are refused. Whether all else is well cannot be told."},
		"damaged": {func(f *rich) { f.damage = []store.Damage{{Path: "/a", Ino: 4, Kind: store.DamagedContent, At: now}} },
			"/a is damaged. Whether all else is well cannot be told."},
		"read-only": {func(f *rich) { f.readOnly = store.ErrReadOnly }, "Nothing can be changed. Whether all else is well cannot be told."},
	} {
		t.Run(name, func(t *testing.T) {
			f := newRich()
			f.locks = f.locks[:3:3]
			c.setup(f)
			o := richOptions(f)
			o.Snapshot = func() poison.Snapshot { return poison.Snapshot{WatchedAt: now.Add(-time.Minute)} }
			o.Copy = func() MetadataCopy { return MetadataCopy{State: "behind", Late: true} }
			a := New(o)
			defer a.Close()
			page := serve(a, "GET", "/", "").Body.String()
			if !strings.Contains(page, c.want) {
				t.Errorf("no %q", c.want)
			}
			for _, lie := range []string{"is served", "Everything else does", "so does everything else", "Everything can be read"} {
				if strings.Contains(page, lie) {
					t.Errorf("the page says %q", lie)
				}
			}
		})
	}
}

// A route is one of few, and names nothing.
func TestRoute(t *testing.T) {
	a := New(richOptions(newRich()))
	defer a.Close()
	for target, want := range map[string]string{
		"GET /locks/inode:7": "/locks/{name}", "HEAD /": "/", "POST /api/v1/locks/a%2Fb/reset": "/api/v1/locks/{name}/reset",
		"GET /secret": "", "BREW /": "", "GET /%ff": "",
	} {
		method, path, _ := strings.Cut(target, " ")
		r, err := http.NewRequest(method, "http://h"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Route(r); got != want {
			t.Errorf("Route(%s) = %q, want %q", target, got, want)
		}
	}
}
