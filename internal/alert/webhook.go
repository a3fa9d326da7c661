package alert

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"
)

// SignatureHeader carries "sha256=" and the HMAC-SHA256 of the body in hexadecimal,
// keyed with Options.Secret, so that a receiver knows who has sent it.
const SignatureHeader = "X-Engramfs-Signature"

// webhook is one receiver of messages.
type webhook struct {
	// Immutable after newWebhook.
	n      *Notifier
	url    *url.URL
	client *http.Client
	wake   chan struct{}

	sent, failed atomic.Uint64

	told map[string]told // by fingerprint; Notifier.mu protects it
}

// told is what a webhook knows of an alert.
type told struct {
	change uint64 // of the last message that it took
	at     time.Time
}

func newWebhook(u *url.URL, n *Notifier) *webhook {
	return &webhook{
		n: n, url: u, wake: make(chan struct{}, 1), told: map[string]told{},
		client: &http.Client{
			Timeout: n.o.Timeout,
			// A redirect could send a signed message somewhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute},
		},
	}
}

// kick lets the webhook look whether there is something to tell.
func (h *webhook) kick() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// run tells until ctx ends. After a failure it waits, however much there is to tell.
func (h *webhook) run(ctx context.Context) {
	defer h.client.CloseIdleConnections()
	failures := 0
	for {
		wait := h.n.o.Every // to see what is to be repeated
		err := h.tell(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			failures++
			h.failed.Add(1)
			wait = h.backoff(failures)
			h.n.log.Warn("webhook not told", "host", h.url.Host, "failures", failures, "retry", wait, "err", err)
		} else if failures > 0 {
			h.n.log.Info("webhook told again", "host", h.url.Host, "failures", failures)
			failures = 0
		}
		wake := h.wake
		if err != nil {
			wake = nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-wake:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// backoff doubles with each failure in a row. A part of it is random, so that the
// servers of a house do not all ask at once.
func (h *webhook) backoff(failures int) time.Duration {
	d := h.n.o.MaxBackoff
	if failures < 20 {
		d = min(d, h.n.o.Backoff<<(failures-1))
	}
	return d/2 + rand.N(d/2+1)
}

// tell sends all that is to be told, in messages of at most maxMessage alerts.
func (h *webhook) tell(ctx context.Context) error {
	for {
		due, truncated := h.due()
		if len(due) == 0 {
			return nil
		}
		if err := h.post(ctx, newMessage(due, truncated, h.n.o.Instance, h.n.o.URL)); err != nil {
			return err
		}
		h.sent.Add(1)
		h.learn(due)
	}
}

// due returns the alerts that the webhook does not know the state of, or knows for
// so long that it is to be told again.
func (h *webhook) due() (due []tracked, truncated int) {
	n := h.n
	now := n.o.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	for fp, t := range n.known {
		told, known := h.told[fp]
		if !known || told.change != t.change || t.ended.IsZero() && now.Sub(told.at) >= n.o.Repeat {
			due = append(due, t)
		}
	}
	slices.SortFunc(due, bySince)
	return due[:min(len(due), maxMessage)], n.truncated
}

func (h *webhook) learn(sent []tracked) {
	now := h.n.o.Now()
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	for _, t := range sent {
		if _, ok := h.n.known[t.fingerprint]; ok {
			h.told[t.fingerprint] = told{t.change, now}
		}
	}
}

// post sends one message. Everything but 2xx is an error. Errors never hold the
// URL, whose path is a password with many receivers.
func (h *webhook) post(ctx context.Context, m message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url.String(), bytes.NewReader(body))
	if err != nil {
		return withoutURL(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "engramfs")
	if len(h.n.o.Secret) > 0 {
		mac := hmac.New(sha256.New, h.n.o.Secret)
		mac.Write(body)
		r.Header.Set(SignatureHeader, "sha256="+hex.EncodeToString(mac.Sum(nil)))
	}
	answer, err := h.client.Do(r)
	if err != nil {
		return withoutURL(err)
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 64<<10) // so that the connection can be used again
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("status %s", answer.Status)
	}
	return nil
}

// withoutURL takes the URL out of an error of package http.
func withoutURL(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}
