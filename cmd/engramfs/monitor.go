package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"engramfs/internal/alert"
	"engramfs/internal/crash"
	"engramfs/internal/heal"
	"engramfs/internal/metrics"
	"engramfs/store"
	"engramfs/store/meta/secondcopy"
	"engramfs/store/poison"
	"engramfs/web"
	"engramfs/webdav"
)

// monitorFlags say how a server watches itself.
type monitorFlags struct {
	MetricsPublic     bool          `help:"Serve /metrics of the admin listener without a password."`
	ReadyWhenDegraded bool          `default:"true" negatable:"" help:"Let /readyz succeed while a lock is poisoned or content is damaged (${default})."`
	SlowAfter         time.Duration `default:"1s" placeholder:"TIME" help:"Log operations that take longer, not counting a second for each MiB (${default})."`
	StuckAfter        time.Duration `default:"5s" placeholder:"TIME" help:"Report a lock that one operation holds for longer (${default})."`

	Heal       string `default:"manual" enum:"manual,verified" placeholder:"MODE" help:"verified: reset a poisoned lock without a person when its dry run finds nothing to repair, at most 3 times in 10 minutes (${default})."`
	CrashLimit int    `default:"5" placeholder:"N" help:"Serve read-only after N crashes soon after the start within 10 minutes, and refuse to start after twice as many; 0: never (${default})."`

	AlertWebhook    []string      `sep:"none" placeholder:"URL" help:"Tell this URL what is wrong and when it is over, as Alertmanager does; repeatable."`
	AlertSecretFile string        `placeholder:"FILE" help:"File with the key that signs these messages (HMAC-SHA256)."`
	AlertRepeat     time.Duration `default:"4h" placeholder:"TIME" help:"How often to tell again of what is still wrong (${default})."`
	AlertPaths      bool          `help:"Name files in alerts."`
}

func (f *monitorFlags) validate() error {
	for _, d := range []struct {
		flag string
		v    time.Duration
	}{{"--slow-after", f.SlowAfter}, {"--stuck-after", f.StuckAfter}, {"--alert-repeat", f.AlertRepeat}} {
		if d.v <= 0 {
			return fmt.Errorf("%s %s: want more than 0", d.flag, d.v)
		}
	}
	switch {
	case f.CrashLimit < 0:
		return fmt.Errorf("--crash-limit %d: want 0 or more", f.CrashLimit)
	case f.AlertSecretFile != "" && len(f.AlertWebhook) == 0:
		return errors.New("--alert-secret-file needs an --alert-webhook")
	}
	return nil
}

// monitor is what watches a server.
type monitor struct {
	metrics *metrics.Metrics
	healer  *heal.Healer    // nil: healing is a person's
	alerts  *alert.Notifier // nil: there are no webhooks
	since   time.Time
	dav     atomic.Pointer[webdav.Handler]
}

// openCrash notes this start, and whether it may be one that writes.
func (s *server) openCrash() (err error) {
	limit := s.cfg.CrashLimit
	if limit == 0 {
		limit = -1 // the package's word for any number; its 0 means the default
	}
	s.crash, err = crash.Open(crash.Options{Dir: s.data.dir, Logger: s.log, Limit: limit})
	if errors.Is(err, crash.ErrLoop) {
		return hint(err, "look at crash-*.log in the data folder; remove "+crash.Marker+" there to start all the same, or wait ten minutes")
	}
	return err
}

// crashLoop is why the store is read-only after too many crashes; nil: it is not.
func (s *server) crashLoop() error {
	if s.crash.Looping() {
		return errors.New("the server kept crashing soon after its start")
	}
	return nil
}

// watchLocks has the stacks kept when a lock is stuck.
func (s *server) watchLocks() poison.WatchOptions {
	return poison.WatchOptions{Soft: s.cfg.StuckAfter, OnSoft: func(st poison.Stuck, stacks []byte) {
		name, err := s.crash.KeepStacks(stacks)
		s.log.Warn("stacks of all goroutines kept", "lock", st.Lock, "file", name, "err", err)
	}}
}

// openMonitor makes what watches the open store.
func (s *server) openMonitor() error {
	m := &s.monitor
	m.since = time.Now()
	if s.cfg.Heal == "verified" {
		m.healer = heal.New(heal.Options{Store: s.store, Logger: s.log, Begin: s.auditReset})
	}
	if len(s.cfg.AlertWebhook) > 0 {
		if err := s.openAlerts(); err != nil {
			return err
		}
	}
	o := metrics.Options{
		Store: s.store, Logger: s.log, Version: programVersion(), SlowAfter: s.cfg.SlowAfter,
		DAVPanics: func() uint64 {
			if h := m.dav.Load(); h != nil {
				return uint64(h.Panics())
			}
			return 0
		},
		Escalated: func() int { return len(m.escalations()) },
		Crashes:   func() (int, bool) { return len(s.crash.Reports()), s.crash.Looping() },
	}
	if s.metadata.copy != nil {
		o.SecondCopy = func() metrics.SecondCopy {
			c := s.metadataCopy()
			m := metrics.SecondCopy{Late: c.Late}
			if c.AsOf != nil {
				m.AsOf = *c.AsOf
			}
			return m
		}
	}
	if s.tracer != nil {
		o.Spans = s.tracer.Stats
	}
	if s.cfg.Mount != "" {
		o.MountPanics = func() uint64 { return s.mount.Info().Panics }
	}
	if m.alerts != nil {
		o.Notifications = func() metrics.Notifications { return metrics.Notifications(m.alerts.Stats()) }
	}
	m.metrics = metrics.New(o)
	return nil
}

func (s *server) openAlerts() (err error) {
	o := alert.Options{
		Store: s.store, Webhooks: s.cfg.AlertWebhook, Paths: s.cfg.AlertPaths, Repeat: s.cfg.AlertRepeat,
		Escalations: s.monitor.escalations, Logger: s.log,
	}
	if s.cfg.AlertSecretFile != "" {
		if o.Secret, err = os.ReadFile(s.cfg.AlertSecretFile); err != nil {
			return fmt.Errorf("alert secret: %w", err)
		}
		if o.Secret = bytes.TrimSpace(o.Secret); len(o.Secret) == 0 {
			return fmt.Errorf("alert secret: %s is empty", s.cfg.AlertSecretFile)
		}
	}
	if o.Instance, err = os.Hostname(); err != nil {
		return err
	}
	if s.admin != nil {
		o.URL = s.adminURL()
	}
	if s.metadata.copy != nil {
		o.CopyLate = func() bool { return s.metadataCopy().Late }
	}
	s.monitor.alerts, err = alert.New(o)
	return err
}

func (m *monitor) escalations() []heal.Escalation {
	if m.healer == nil {
		return nil
	}
	return m.healer.Escalations()
}

// run heals and alerts until the function it returns is called.
func (m *monitor) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	if m.healer != nil {
		done.Go(func() { m.healer.Run(ctx) })
	}
	if m.alerts != nil {
		done.Go(func() { m.alerts.Run(ctx) })
	}
	return func() {
		cancel()
		done.Wait()
	}
}

// notes is what an operator should know besides the state of the store.
func (s *server) notes() []string {
	notes := append(s.crash.Notes(), s.metadata.notes()...)
	for _, e := range s.monitor.escalations() {
		notes = append(notes, fmt.Sprintf("lock %s is left to a person: %s", e.Lock, e.Reason))
	}
	return notes
}

// copyLimit is how far the second copy may be behind: a snapshot of a large store, which
// begins it anew, takes some seconds.
const copyLimit = time.Minute

// metadataCopy is the state of the second copy.
func (s *server) metadataCopy() web.MetadataCopy {
	st := s.metadata.copy.Status()
	c := web.MetadataCopy{State: string(st.State)}
	since := s.monitor.since // until this run has made a copy
	if !st.Instant.IsZero() {
		at := st.Instant.UTC()
		c.AsOf = &at
		if at.After(since) {
			since = at
		}
	}
	if st.Err != nil {
		c.Error = st.Err.Error()
	}
	c.Late = st.State == secondcopy.Failed || time.Since(since) > copyLimit
	return c
}

// traffic is what the plots of the page are made of.
func (s *server) traffic() web.Traffic {
	t := s.monitor.metrics.Traffic()
	w := web.Traffic{Requests: t.Requests, Failed: t.Failed, BytesIn: t.BytesIn, BytesOut: t.BytesOut}
	for _, b := range t.Latency {
		w.Latency = append(w.Latency, web.LatencyBucket(b))
	}
	return w
}

// engineStats are the figures of the metadata engine that the page shows.
func engineStats(s *store.Store) web.EngineStats {
	e := s.EngineStats()
	return web.EngineStats{
		Engine: e.Engine, DiskBytes: e.DiskBytes, LogBytes: e.LogBytes, CacheBytes: e.CacheBytes, MemTableBytes: e.MemTableBytes,
		CacheHits: e.CacheHits, CacheMisses: e.CacheMisses, Updates: e.Updates, Syncs: e.Syncs,
		Compactions: e.Compactions, WriteStalls: e.WriteStalls,
	}
}
