package alert

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"engramfs/internal/heal"
	"engramfs/internal/logbuf"
	"engramfs/store"
	"engramfs/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiverOf is a webhook that keeps what it is told.
type receiverOf struct {
	*httptest.Server

	mu       sync.Mutex
	status   int // answered; 0: 200
	messages []message
	bodies   [][]byte
	headers  []http.Header
}

func newReceiver(t *testing.T) *receiverOf {
	r := &receiverOf{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		var m message
		err := json.Unmarshal(body, &m)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.status != 0 {
			w.Header().Set("Location", r.URL)
			w.WriteHeader(r.status)
			return
		}
		if err != nil {
			t.Errorf("a message that is no JSON: %v\n%s", err, body)
		}
		r.messages, r.bodies, r.headers = append(r.messages, m), append(r.bodies, body), append(r.headers, req.Header)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiverOf) answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

func (r *receiverOf) got() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.messages)
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// start runs a notifier that is quick until the test ends.
func start(t *testing.T, o Options) *Notifier {
	t.Helper()
	o.Every, o.Backoff, o.MaxBackoff, o.Instance = 5*time.Millisecond, time.Millisecond, 5*time.Millisecond, "files-1"
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { n.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return n
}

// poisonFolder poisons the lock of /secret-plans, and returns its name and generation.
func poisonFolder(t *testing.T, s *store.Store) (lock string, gen uint64) {
	t.Helper()
	a, err := s.EnsureDirectory(t.Context(), "/secret-plans", store.NewNode{Mode: 0o755})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ArmFault(t.Context(), "/secret-plans", "", "panic"); err != nil {
		t.Fatal(err)
	}
	mode := uint32(0o700)
	if _, err := s.SetAttr(t.Context(), a.Ino, store.SetAttr{Mode: &mode}); !errors.Is(err, store.ErrPoisoned) {
		t.Fatalf("SetAttr: %v, want poisoned", err)
	}
	lock = store.InodeLock(a.Ino)
	st, err := s.LockStatus(lock)
	if err != nil {
		t.Fatal(err)
	}
	return lock, st.Gen
}

func reset(t *testing.T, s *store.Store, lock string, gen uint64) {
	t.Helper()
	if _, err := s.ResetLock(t.Context(), lock, gen, false); err != nil {
		t.Fatal(err)
	}
}

func TestPoisonFiresAndResetResolves(t *testing.T) {
	for _, paths := range []bool{false, true} {
		t.Run(fmt.Sprintf("Paths=%t", paths), func(t *testing.T) {
			s, r := storetest.New(t), newReceiver(t)
			secret := []byte("a secret of the house")
			n := start(t, Options{Store: s, Webhooks: []string{r.URL}, Secret: secret, URL: "https://files/", Paths: paths})
			lock, gen := poisonFolder(t, s)
			await(t, "a message", func() bool { return len(r.got()) == 1 })
			reset(t, s, lock, gen)
			await(t, "a second message", func() bool { return len(r.got()) == 2 })

			firing, resolved := r.got()[0], r.got()[1]
			if firing.Version != "4" || firing.Status != "firing" || len(firing.Alerts) != 1 || firing.ExternalURL != "https://files/" || firing.GroupLabels["instance"] != "files-1" {
				t.Fatalf("firing message %s", r.bodies[0])
			}
			a, b := firing.Alerts[0], resolved.Alerts[0]
			if a.Labels["alertname"] != LockPoisoned || a.Labels["lock"] != lock || a.Labels["severity"] != "critical" || !a.EndsAt.IsZero() || time.Since(a.StartsAt) > time.Minute {
				t.Errorf("firing alert %+v", a)
			}
			if resolved.Status != "resolved" || b.Status != "resolved" || b.Fingerprint != a.Fingerprint || !b.StartsAt.Equal(a.StartsAt) || b.EndsAt.Before(b.StartsAt) {
				t.Errorf("resolved alert %+v, after %+v", b, a)
			}
			if named := strings.Contains(string(r.bodies[0]), "secret-plans"); named != paths {
				t.Errorf("the message names the path: %t, want %t\n%s", named, paths, r.bodies[0])
			}
			if strings.Contains(string(r.bodies[0]), "goroutine") || strings.Contains(string(r.bodies[0]), "drill") {
				t.Errorf("the message shows the stack or the panic's value\n%s", r.bodies[0])
			}
			mac := hmac.New(sha256.New, secret)
			mac.Write(r.bodies[0])
			if got, want := r.headers[0].Get(SignatureHeader), "sha256="+hex.EncodeToString(mac.Sum(nil)); got != want {
				t.Errorf("signature %s, want %s", got, want)
			}
			await(t, "that nobody waits", func() bool { return n.Stats() == Stats{Sent: 2} })
		})
	}
}

func TestWebhookThatIsDownIsToldLater(t *testing.T) {
	s, r := storetest.New(t), newReceiver(t)
	log := &logbuf.Buffer{}
	n := start(t, Options{
		Store: s, Webhooks: []string{r.URL + "/services/T0KEN"}, Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	r.answer(http.StatusServiceUnavailable)
	lock, gen := poisonFolder(t, s)
	await(t, "some failures", func() bool { return n.Stats().Failed > 3 })
	if st := n.Stats(); st.Sent != 0 || st.Waiting != 1 {
		t.Errorf("Stats() = %+v, want one alert that waits", st)
	}
	r.answer(0)
	await(t, "the message", func() bool { return len(r.got()) == 1 })
	if m := r.got()[0]; m.Status != "firing" {
		t.Errorf("message %+v, want firing", m)
	}

	// What comes and goes while nobody listens is told once.
	r.answer(http.StatusFound) // is not followed
	reset(t, s, lock, gen)
	_, gen = poisonFolder(t, s)
	reset(t, s, lock, gen)
	before := n.Stats().Failed
	await(t, "more failures", func() bool { return n.Stats().Failed > before+3 })
	r.answer(0)
	await(t, "the second message", func() bool { return len(r.got()) == 2 })
	if m := r.got()[1]; m.Status != "resolved" || len(m.Alerts) != 1 {
		t.Errorf("message %+v, want one resolved alert", m)
	}
	if text := log.String(); strings.Contains(text, "T0KEN") || !strings.Contains(text, "webhook not told") {
		t.Errorf("the log has the path of the webhook's URL, which is a password, or nothing of the failures\n%s", text)
	}
}

func TestOneSlowWebhookDelaysNoOther(t *testing.T) {
	s, quick := storetest.New(t), newReceiver(t)
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer slow.Close()
	defer close(release)
	n := start(t, Options{Store: s, Webhooks: []string{slow.URL, quick.URL}})
	lock, gen := poisonFolder(t, s)
	await(t, "firing", func() bool { return len(quick.got()) == 1 })
	reset(t, s, lock, gen)
	await(t, "resolved", func() bool { return len(quick.got()) == 2 })
	if w := n.Stats().Waiting; w != 1 {
		t.Errorf("%d alerts wait, want the one that the slow webhook does not know", w)
	}
}

func TestWhatIsStillWrongIsRepeated(t *testing.T) {
	s, r := storetest.New(t), newReceiver(t)
	start(t, Options{Store: s, Webhooks: []string{r.URL}, Repeat: 20 * time.Millisecond})
	lock, gen := poisonFolder(t, s)
	await(t, "three messages", func() bool { return len(r.got()) >= 3 })
	first, last := r.got()[0].Alerts[0], r.got()[2].Alerts[0]
	if first.Fingerprint != last.Fingerprint || !first.StartsAt.Equal(last.StartsAt) {
		t.Errorf("repeated as %+v, was %+v", last, first)
	}
	reset(t, s, lock, gen)
	await(t, "resolved", func() bool { m := r.got(); return m[len(m)-1].Status == "resolved" })
}

func TestEveryConditionHasAnAlert(t *testing.T) {
	s, _ := storetest.NewWith(t, store.Options{ReadOnly: errors.New("/mnt/secret is gone")})
	now := time.Now()
	n, err := New(Options{
		Store: &damagedStore{s, now}, Webhooks: []string{"http://127.0.0.1:1"}, Escalations: func() []heal.Escalation {
			return []heal.Escalation{{Lock: "alloc", Gen: 1, Reason: "the reset would fail: /mnt/secret", Since: time.Now()}}
		},
		CopyLate: func() bool { return true }, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	all := n.conditions()
	var names []string
	for _, a := range all {
		names = append(names, a.Labels["alertname"])
		if strings.Contains(fmt.Sprint(a), "/mnt/secret") {
			t.Errorf("alert with what an error says: %+v", a)
		}
	}
	if want := []string{ReadOnly, ContentDamaged, ContentDamaged, Salvaged, CopyLate, HealGaveUp}; !slices.Equal(names, want) {
		t.Errorf("alerts %v, want %v", names, want)
	}
	now = now.Add(salvageNews)
	if slices.ContainsFunc(n.conditions(), func(a Alert) bool { return a.Labels["alertname"] == Salvaged }) {
		t.Error("a salvage is news for ever")
	}
}

// damagedStore has three damaged places in two files, and metadata that was salvaged.
type damagedStore struct {
	*store.Store
	salvaged time.Time
}

func (s damagedStore) SalvagedAt() time.Time { return s.salvaged }

func (damagedStore) Damaged() []store.Damage {
	return []store.Damage{{Ino: 4, Path: "/mnt/secret/a"}, {Ino: 4, Offset: 65536}, {Ino: 5}}
}

// slowStore tells of its damage once, and then of nothing any more.
type slowStore struct {
	damagedStore
	first chan struct{} // closed: it was told
	hang  chan struct{}
}

func (s slowStore) Damaged() []store.Damage {
	select {
	case <-s.first:
		<-s.hang
		return nil
	default:
		close(s.first)
		return s.damagedStore.Damaged()
	}
}

// A disk that hangs holds up neither the other alerts nor the end, and does not make
// what was damaged whole.
func TestDamageThatIsNotToldAnyMore(t *testing.T) {
	r := newReceiver(t)
	s := slowStore{damagedStore{Store: storetest.New(t)}, make(chan struct{}), make(chan struct{})}
	t.Cleanup(func() { close(s.hang) }) // after the notifier has ended
	start(t, Options{Store: s, Webhooks: []string{r.URL}})
	seen := func(name string) bool {
		return slices.ContainsFunc(r.got(), func(m message) bool {
			return slices.ContainsFunc(m.Alerts, func(a messageAlert) bool { return a.Labels["alertname"] == name })
		})
	}
	await(t, "damage", func() bool { return seen(ContentDamaged) })
	poisonFolder(t, s.Store)
	await(t, "the poisoned lock", func() bool { return seen(LockPoisoned) })
	for _, m := range r.got() {
		for _, a := range m.Alerts {
			if a.Status != statusFiring {
				t.Errorf("resolved: %v", a.Labels)
			}
		}
	}
}

func TestManyAlertsAreSplitAndBounded(t *testing.T) {
	r := newReceiver(t)
	n, err := New(Options{Store: storetest.New(t), Webhooks: []string{r.URL}})
	if err != nil {
		t.Fatal(err)
	}
	var firing []Alert
	for i := range maxTracked + 7 {
		firing = append(firing, Alert{Labels: map[string]string{"alertname": "X", "i": fmt.Sprint(i)}})
	}
	if !n.update(firing) || n.update(firing) {
		t.Error("the same alerts are news twice, or never")
	}
	h := n.hooks[0]
	if err := h.tell(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.client.CloseIdleConnections()
	seen := map[string]bool{}
	for _, m := range r.got() {
		if len(m.Alerts) > maxMessage || m.TruncatedAlerts != 7 || m.CommonLabels["alertname"] != "X" || m.CommonLabels["i"] != "" {
			t.Errorf("message of %d alerts, truncated %d, common %v", len(m.Alerts), m.TruncatedAlerts, m.CommonLabels)
		}
		for _, a := range m.Alerts {
			seen[a.Fingerprint] = true
		}
	}
	if len(seen) != maxTracked {
		t.Errorf("%d alerts told, want %d", len(seen), maxTracked)
	}
	n.update(nil)
	n.update(nil)
	if len(n.known) > maxTracked/2 {
		t.Errorf("%d alerts that are over are kept for a webhook that was not told", len(n.known))
	}
}

func TestBadWebhooksAreRefused(t *testing.T) {
	for _, u := range []string{"", "ftp://host/x", "http://", "/path/T0KEN", "http://host:bad port/T0KEN"} {
		_, err := New(Options{Store: storetest.New(t), Webhooks: []string{u}})
		if err == nil || strings.Contains(err.Error(), "T0KEN") {
			t.Errorf("New with the webhook %q: %v, want an error without the path", u, err)
		}
	}
	if _, err := New(Options{Store: storetest.New(t)}); err == nil {
		t.Error("New without a webhook succeeds")
	}
}
