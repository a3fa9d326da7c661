package main

import (
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notify tells the supervisor of this process, if it has one that speaks
// sd_notify(3).
func (s *server) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("supervisor not notified", "state", state, "err", err)
	}
}

// supervise sends signs of life if the supervisor wants them (WatchdogSec=), for
// as long as no lock is stuck past its hard limit: then only a restart helps. The
// function it returns ends that.
func (s *server) supervise() (stop func()) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("supervisor's watchdog is not served", "err", err)
	}
	quit := make(chan struct{})
	var done sync.WaitGroup
	if limit > 0 {
		done.Go(func() { s.sendSignsOfLife(limit/3, quit) })
	}
	return func() {
		close(quit)
		done.Wait()
	}
}

func (s *server) sendSignsOfLife(every time.Duration, quit <-chan struct{}) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if !s.store.Registry().Health().HardStuck {
			s.notify(daemon.SdNotifyWatchdog)
		}
		select {
		case <-tick.C:
		case <-quit:
			return
		}
	}
}
