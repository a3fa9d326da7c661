package alert

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"sync"
	"time"

	"engramfs/internal/heal"
	"engramfs/internal/patience"
	"engramfs/store"
	"engramfs/store/poison"
)

// Options of New.
type Options struct {
	Store    Store    // required
	Webhooks []string // URLs, at least one
	// Instance names this server in every alert.
	Instance string
	// URL is the admin page of this server, as receivers can reach it.
	URL string
	// Secret, if not empty, signs every message: see SignatureHeader.
	Secret []byte
	// Paths lets alerts name files.
	Paths bool

	// Escalations returns the locks that the server does not heal by itself. nil: none.
	Escalations func() []heal.Escalation

	// CopyLate says that the second copy of the metadata cannot be written, or is
	// older than it may be. nil: none is kept.
	CopyLate func() bool

	// Repeat is how often a webhook is told again of what is still wrong. 0: every
	// four hours, as Alertmanager does.
	Repeat time.Duration
	// Every is the time between two looks; a poisoning is seen at once. 0: a second.
	Every time.Duration
	// Timeout bounds one message. 0: 10 seconds.
	Timeout time.Duration
	// Backoff and MaxBackoff are the waits after the first failure in a row and after
	// many. 0: one second and five minutes.
	Backoff, MaxBackoff time.Duration

	Logger *slog.Logger     // nil: nothing is logged
	Now    func() time.Time // nil: time.Now
}

// Bounds of what is remembered.
const (
	maxTracked = 1000 // alerts; what is above is told as a number
	maxMessage = 100  // alerts in one message
)

// Notifier tells webhooks. It works while Run runs.
type Notifier struct {
	// Immutable after New.
	o     Options
	log   *slog.Logger
	hooks []*webhook
	wake  chan struct{}

	damaged patience.Asker[[]store.Damage]

	// mu protects the fields below.
	mu        sync.Mutex
	known     map[string]tracked // by fingerprint
	changes   uint64
	truncated int // alerts that are firing and not in known
}

// Stats counts messages.
type Stats struct {
	Sent, Failed uint64 // messages since the start
	Waiting      int    // alerts whose last change a webhook has not been told
}

// New returns a notifier. The error says which URL is none.
func New(o Options) (*Notifier, error) {
	o.Repeat = cmp.Or(o.Repeat, 4*time.Hour)
	o.Every = cmp.Or(o.Every, time.Second)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	o.Backoff = cmp.Or(o.Backoff, time.Second)
	o.MaxBackoff = cmp.Or(o.MaxBackoff, 5*time.Minute)
	if o.Now == nil {
		o.Now = time.Now
	}
	n := &Notifier{o: o, log: o.Logger, known: map[string]tracked{}, wake: make(chan struct{}, 1)}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if len(o.Webhooks) == 0 {
		return nil, errors.New("no webhook")
	}
	for i, text := range o.Webhooks {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("webhook %d: want an http or https URL", i+1) // it may hold a secret
		}
		n.hooks = append(n.hooks, newWebhook(u, n))
	}
	return n, nil
}

// Run notifies until ctx ends. It is called once.
func (n *Notifier) Run(ctx context.Context) {
	n.o.Store.Registry().OnTransition(func(poison.Transition) {
		select {
		case n.wake <- struct{}{}:
		default: // a look is due already
		}
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, h := range n.hooks {
		wg.Go(func() { h.run(ctx) })
	}
	tick := time.NewTicker(n.o.Every)
	defer tick.Stop()
	for {
		n.look()
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		case <-tick.C:
		}
	}
}

// Stats returns what was sent.
func (n *Notifier) Stats() Stats {
	var s Stats
	for _, h := range n.hooks {
		s.Sent, s.Failed = s.Sent+h.sent.Load(), s.Failed+h.failed.Load()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for fp, t := range n.known {
		if slices.ContainsFunc(n.hooks, func(h *webhook) bool { return h.told[fp].change != t.change }) {
			s.Waiting++
		}
	}
	return s
}

// look compares what is wrong with what is known, and wakes the webhooks if there
// is a difference.
func (n *Notifier) look() {
	defer func() {
		if v := recover(); v != nil { // what looks for trouble must not make any
			n.log.Error("alerts not evaluated", "panic", v)
		}
	}()
	if n.update(n.conditions()) {
		for _, h := range n.hooks {
			h.kick()
		}
	}
}

// update takes over what is firing now, and reports whether that is news.
func (n *Notifier) update(firing []Alert) (news bool) {
	now := n.o.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.changes
	n.truncated = 0
	current := make(map[string]bool, len(firing))
	for _, a := range firing {
		fp := fingerprint(a.Labels)
		current[fp] = true
		old, ok := n.known[fp]
		switch {
		case !ok && len(n.known) >= maxTracked:
			n.truncated++
		case !ok, !old.ended.IsZero(), !a.Since.IsZero() && !a.Since.Equal(old.alert.Since): // again
			if a.Since.IsZero() {
				a.Since = now
			}
			n.changes++
			n.known[fp] = tracked{alert: a, fingerprint: fp, change: n.changes}
		}
	}
	for fp, t := range n.known {
		if !current[fp] && t.ended.IsZero() {
			n.changes++
			t.ended, t.change = now, n.changes
			n.known[fp] = t
		}
	}
	n.forgetLocked()
	return n.changes != before
}

// forgetLocked drops alerts that are over and that every webhook knows of. If a
// webhook does not answer for long, the oldest of them go all the same.
func (n *Notifier) forgetLocked() {
	over := slices.DeleteFunc(slices.SortedFunc(maps.Values(n.known), bySince), func(t tracked) bool { return t.ended.IsZero() })
	for i, t := range over {
		everybody := !slices.ContainsFunc(n.hooks, func(h *webhook) bool { return h.told[t.fingerprint].change != t.change })
		if everybody || len(over)-i > maxTracked/2 {
			delete(n.known, t.fingerprint)
			for _, h := range n.hooks {
				delete(h.told, t.fingerprint)
			}
		}
	}
}
