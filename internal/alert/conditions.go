package alert

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"engramfs/internal/heal"
	"engramfs/store"
	"engramfs/store/poison"
)

// Store is what a Notifier looks at.
type Store interface {
	Registry() *poison.Registry
	ReadOnly() error
	Damaged() []store.Damage
	SalvagedAt() time.Time
}

var _ Store = (*store.Store)(nil)

// salvageNews is how long a salvage is worth an alert, over restarts. Nothing else ends
// it: what is missing stays so.
const salvageNews = 24 * time.Hour

// conditions returns what is wrong now. Errors, stacks and panic values are never
// part of an alert, because they may hold anything; paths only if they shall.
func (n *Notifier) conditions() []Alert {
	s := n.o.Store
	var all []Alert
	add := func(name, severity string, since time.Time, labels map[string]string, summary, path string) {
		l := map[string]string{"alertname": name, "severity": severity, "instance": n.o.Instance}
		maps.Copy(l, labels)
		a := Alert{Labels: l, Annotations: map[string]string{"summary": summary}, Since: since}
		if path != "" && n.o.Paths {
			a.Annotations["path"] = path
		}
		all = append(all, a)
	}
	if s.ReadOnly() != nil {
		add(ReadOnly, "critical", time.Time{}, nil, "every write is refused; the health page says why", "")
	}
	for _, l := range s.Registry().Health().Locks {
		if ev := l.Event; ev != nil {
			add(LockPoisoned, "critical", ev.At, map[string]string{"lock": l.Name},
				fmt.Sprintf("lock %s is poisoned (%v in %s): its writes are refused", l.Name, ev.Cause, ev.Op), l.Detail)
		}
		if l.Stuck != nil {
			summary := fmt.Sprintf("lock %s is held by one request and not given back", l.Name)
			if l.Stuck.Op != "" {
				summary += " (" + l.Stuck.Op + ")"
			}
			add(LockStuck, "warning", l.Stuck.Since, map[string]string{"lock": l.Name}, summary, l.Detail)
		}
	}
	damaged := map[store.Ino]bool{}
	// What is late is as it was: a disk that hangs must not hold up the other alerts.
	places, _ := n.damaged.AskOrLast(func() ([]store.Damage, error) { return s.Damaged(), nil })
	for _, d := range places {
		if !damaged[d.Ino] { // one alert for each file
			damaged[d.Ino] = true
			add(ContentDamaged, "critical", d.At, map[string]string{"ino": fmt.Sprint(d.Ino)},
				fmt.Sprintf("the content of inode %d is damaged: put the file again from a copy", d.Ino), d.Path)
		}
	}
	if at := s.SalvagedAt(); !at.IsZero() && n.o.Now().Sub(at) < salvageNews {
		add(Salvaged, "critical", at, nil, "the metadata was missing or damaged and was made anew; the newest salvage-*.json in the data folder lists what is missing", "")
	}
	if n.o.CopyLate != nil && n.o.CopyLate() {
		add(CopyLate, "warning", time.Time{}, nil, "the second copy of the metadata is not kept up; the health page says why", "")
	}
	for _, e := range n.escalations() {
		reason, _, _ := strings.Cut(e.Reason, ":") // what follows may name paths
		add(HealGaveUp, "critical", e.Since, map[string]string{"lock": e.Lock},
			fmt.Sprintf("lock %s is not reset by the server itself: %s", e.Lock, reason), "")
	}
	return all
}

func (n *Notifier) escalations() []heal.Escalation {
	if n.o.Escalations == nil {
		return nil
	}
	return n.o.Escalations()
}
