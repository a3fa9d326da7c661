package web

import (
	"strings"
	"testing"
	"time"

	"engramfs/store"
)

// Every kind of event has words of its own, on the page and in the list.
func TestEventsOfEveryKind(t *testing.T) {
	f := newRich()
	failed := &store.ResetReport{Lock: "usage", Gen: 2, Problems: []string{"block 3 is damaged"}}
	for i, e := range []store.HistoryEntry{
		{Kind: "damaged", Path: "/films/a.mkv", Damage: &store.Damage{Kind: store.DamagedContent, Source: store.DamageByScrub, Err: "checksum"}},
		{Kind: "damaged", Path: "/films/b.mkv", Damage: &store.Damage{Kind: store.DamagedMissing, Source: store.DamageByRead, Err: "no blob"}},
		{Kind: store.SalvageEvent, Lock: "metadata", Path: "meta/MANIFEST: checksum mismatch"},
		{Kind: "reset", Lock: "usage", Gen: 2, Source: store.ResetByAuto, Report: failed},
		{Kind: "reset", Lock: "usage", Gen: 2, Source: store.ResetByAuto, Report: &store.ResetReport{}},
	} {
		e.Seq, e.At = uint64(4+i), poisonedAt.Add(time.Duration(i)*time.Minute)
		f.history = append([]store.HistoryEntry{e}, f.history...)
	}
	a := New(richOptions(f))
	list := serve(a, "GET", "/events", "").Body.String()
	for _, want := range []string{
		"bytes of its content are wrong, found by a scrub", "its content is missing, found by a read",
		"The metadata</strong> salvaged", "usage</strong> not reset", "usage</strong> reset", "by the server itself", "by a panic in rename",
	} {
		if !strings.Contains(list, want) {
			t.Errorf("the list of events has no %q", want)
		}
	}
	for seq, want := range map[string]string{"4": "checksum", "6": "meta/MANIFEST: checksum mismatch", "7": "usage"} {
		page := serve(a, "GET", "/events/"+seq, "").Body.String()
		if !strings.Contains(page, want) || strings.Contains(page, `href="/locks/"`) || strings.Contains(page, "/locks/metadata") {
			t.Errorf("the page of event %s lacks %q, or links to a lock that there is not", seq, want)
		}
	}
	if page := serve(a, "GET", "/", "").Body.String(); !strings.Contains(page, "The metadata</strong> salvaged") {
		t.Error("the health page does not tell of the salvage")
	}
	ev := decode[Event](t, serve(a, "GET", "/api/v1/events/6", ""))
	if ev.Kind != "salvaged" || ev.Path != "" || ev.Value != "meta/MANIFEST: checksum mismatch" {
		t.Errorf("event = %+v", ev)
	}
}

// The second copy is part of the health, and of what monitoring programs read.
func TestSecondCopyInTheHealth(t *testing.T) {
	f := newRich()
	f.locks = f.locks[:3]
	o := richOptions(f)
	asOf := now.Add(-7 * time.Minute)
	c := MetadataCopy{State: "current", AsOf: &asOf}
	o.Copy = func() MetadataCopy { return c }
	a := New(o)
	if h := a.health(); h.Status != Online || h.Copy == nil || !h.Copy.AsOf.Equal(asOf) {
		t.Errorf("with a good copy: %s %+v", h.Status, h.Copy)
	}
	one, other := healthWithoutTime(a.health()), now
	c.AsOf = &other
	if two := healthWithoutTime(a.health()); one.Copy.AsOf != nil || two.Copy.AsOf != nil {
		t.Error("a stream would tell of the health whenever the copy goes on")
	}
	c = MetadataCopy{State: "failed", AsOf: &asOf, Error: "no space", Late: true}
	h := a.health()
	if want := "the second copy of the metadata cannot be written: no space; it has everything up to 2026-03-04 13:58:20 UTC"; h.Status != Degraded || h.Problem != want {
		t.Errorf("with a copy that failed: %s %q", h.Status, h.Problem)
	}
	for _, strict := range []bool{false, true} {
		o.DegradedNotReady = strict
		if code, _, body := probed(New(o), "/readyz?verbose"); code != 200 || !strings.Contains(body, "[!]second-copy warn: the second copy") {
			t.Errorf("strict %t: GET /readyz = %d\n%s", strict, code, body)
		}
	}
	if _, _, body := probed(a, "/api/v1/health", "Accept", healthMedia); !strings.Contains(body, `"metadata:second-copy":[{"componentType":"datastore","observedValue":"failed","status":"warn"`) {
		t.Errorf("health+json: %s", body)
	}
	c = MetadataCopy{State: "behind", Late: true}
	if h := a.health(); !strings.HasSuffix(h.Problem, "is behind; there is none that is good") {
		t.Errorf("without any copy: %q", h.Problem)
	}
}
