// Package alert tells webhooks what is wrong with a store, and when it is over, in
// the format of Prometheus' Alertmanager (version 4), so that whatever understands
// Alertmanager understands it. It needs no Prometheus.
//
// A Notifier compares what is wrong now with what each webhook was told last.
// Nothing that is still true is lost, however long a webhook does not answer: it
// is told as soon as it does. A trouble that comes and goes meanwhile is told once,
// as resolved.
package alert

import (
	"cmp"
	"encoding/hex"
	"hash/fnv"
	"maps"
	"slices"
	"time"
)

// An Alert is one thing that is wrong. Its labels are its identity: there is at
// most one alert with the same labels.
type Alert struct {
	// Labels always have alertname and severity.
	Labels map[string]string
	// Annotations say more to people.
	Annotations map[string]string
	// Since is when it began; zero: when it was first seen.
	Since time.Time
}

// Names of alerts, as the rules for Prometheus have them.
const (
	LockPoisoned   = "EngramfsLockPoisoned"
	LockStuck      = "EngramfsLockStuck"
	ReadOnly       = "EngramfsReadOnly"
	ContentDamaged = "EngramfsContentDamaged"
	HealGaveUp     = "EngramfsHealGaveUp"
	Salvaged       = "EngramfsMetadataSalvaged"
	CopyLate       = "EngramfsSecondCopyLate"
)

// fingerprint identifies an alert by its labels: FNV-1a over the sorted names and
// values, each ended by a byte that no text has.
func fingerprint(labels map[string]string) string {
	h := fnv.New64a()
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		h.Write([]byte(name + "\xff" + labels[name] + "\xff"))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// The statuses of an alert and of a message.
const (
	statusFiring   = "firing"
	statusResolved = "resolved"
)

// message is the body of a POST to a webhook.
type message struct {
	Version           string            `json:"version"`
	GroupKey          string            `json:"groupKey"`
	TruncatedAlerts   int               `json:"truncatedAlerts"`
	Status            string            `json:"status"` // firing if any alert is
	Receiver          string            `json:"receiver"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	ExternalURL       string            `json:"externalURL"`
	Alerts            []messageAlert    `json:"alerts"`
}

// messageAlert is one alert of a message. EndsAt is zero while it is firing.
type messageAlert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

// receiver is the name under which a message says where it comes from.
const receiver = "engramfs"

// newMessage returns the message about some alerts; truncated is how many there
// are that no message can hold.
func newMessage(alerts []tracked, truncated int, instance, url string) message {
	m := message{
		Version: "4", Receiver: receiver, Status: statusResolved, TruncatedAlerts: truncated,
		GroupLabels: map[string]string{"instance": instance}, GroupKey: `{}:{instance="` + instance + `"}`, ExternalURL: url,
	}
	var labels, annotations []map[string]string
	for _, t := range alerts {
		a := messageAlert{
			Status: statusResolved, Labels: t.alert.Labels, Annotations: t.alert.Annotations, StartsAt: t.alert.Since.UTC(),
			EndsAt: t.ended.UTC(), GeneratorURL: url, Fingerprint: t.fingerprint,
		}
		if t.ended.IsZero() {
			a.Status, a.EndsAt, m.Status = statusFiring, time.Time{}, statusFiring
		}
		m.Alerts = append(m.Alerts, a)
		labels, annotations = append(labels, a.Labels), append(annotations, a.Annotations)
	}
	m.CommonLabels, m.CommonAnnotations = common(labels), common(annotations)
	return m
}

// common returns the entries that all of the maps have.
func common(all []map[string]string) map[string]string {
	if len(all) == 0 {
		return map[string]string{}
	}
	shared := maps.Clone(all[0])
	if shared == nil {
		shared = map[string]string{}
	}
	for _, m := range all[1:] {
		maps.DeleteFunc(shared, func(k, v string) bool {
			other, ok := m[k]
			return !ok || other != v
		})
	}
	return shared
}

// tracked is an alert that is firing, or that is over and not every webhook knows.
type tracked struct {
	alert       Alert
	fingerprint string
	ended       time.Time // zero: it is firing
	change      uint64    // grows with every change of the state
}

// bySince orders alerts, the oldest first.
func bySince(a, b tracked) int {
	return cmp.Or(a.alert.Since.Compare(b.alert.Since), cmp.Compare(a.fingerprint, b.fingerprint))
}
