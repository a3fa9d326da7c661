package web

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"engramfs/store"
	"engramfs/store/poison"
)

// toneOf maps a state to its colour and icon; the word is always shown with it.
func toneOf(s Status) string {
	switch s {
	case Online:
		return "ok"
	case Degraded:
		return "warn"
	case Rebuilding:
		return "work"
	case Stuck, ReadOnly:
		return "bad"
	}
	return "unknown"
}

func wordOf(s Status) string { return strings.ToUpper(string(s[:1])) + string(s[1:]) }

// lockTone is toneOf for one lock.
func lockTone(state string) (tone string) {
	switch state {
	case lockHealthy:
		return "ok"
	case lockPoisoned:
		return "warn"
	case lockStuck:
		return "bad"
	}
	return "unknown"
}

// eventTone is toneOf for what has happened.
func eventTone(e Event) string {
	switch {
	case e.Kind == kindReset && (e.Report == nil || len(e.Report.Problems) == 0):
		return "ok"
	case e.Kind == kindReset:
		return "bad"
	}
	return "warn"
}

// eventTarget says what an event has happened to, and eventWord what.
func eventTarget(e Event) string {
	if e.Kind == kindSalvaged {
		return "The metadata"
	}
	return cmp.Or(e.Path, e.Lock, "a file without a name")
}

func eventWord(e Event) string {
	if e.Kind == kindReset && eventTone(e) != "ok" {
		return "not reset"
	}
	return e.Kind
}

// eventHow says how it came about, in a few words; "": there is nothing to say.
func eventHow(e Event) string {
	switch e.Kind {
	case kindPoisoned:
		return "by " + causeWord(e.Cause) + " in " + e.Op
	case kindDamaged:
		return damageWords[store.DamageKind(e.Cause)] + ", found by a " + e.Op
	case kindSalvaged:
		return "from what was left of it"
	}
	if e.Source == string(store.ResetByAuto) {
		return "by the server itself"
	}
	return ""
}

// causeWord says what interrupted a change.
func causeWord(cause string) string {
	return cmp.Or(map[string]string{
		poison.Panic.String():     "a panic",
		poison.Goexit.String():    "the exit of a goroutine",
		poison.Invariant.String(): "a failed check",
		poison.Manual.String():    "an intervention",
	}[cause], "an unknown cause")
}

// damageWords say what is damaged of a file.
var damageWords = map[store.DamageKind]string{
	store.DamagedContent: "bytes of its content are wrong",
	store.DamagedMissing: "its content is missing",
	store.DamagedRecord:  "its record cannot be read",
}

func iso(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// ago says how long before now t was.
func ago(now, t time.Time) string {
	if now.Sub(t) < time.Second {
		return "just now"
	}
	return lasted(now, t) + " ago"
}

// lasted is the time from t until now in its largest unit.
func lasted(now, t time.Time) string {
	d := max(now.Sub(t), 0)
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if d >= u.unit {
			return plural(int64(d/u.unit), u.name)
		}
	}
	if d < time.Second {
		return "less than a second"
	}
	return plural(int64(d/time.Second), "second")
}

// sentence begins with a capital letter and ends with a full stop.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + strings.TrimSuffix(s[1:], ".") + "."
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return number(n) + " " + noun + "s"
}

// number groups digits by three.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// size writes bytes for people.
func size(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for n >= 1024 && i < len(units)-1 {
		n /= 1024
		i++
	}
	if i == 0 || n >= 100 {
		return fmt.Sprintf("%.0f %s", n, units[i])
	}
	return fmt.Sprintf("%.1f %s", n, units[i])
}

func perSecond(n float64) string {
	if n >= 100 || n == 0 {
		return number(int64(n)) + "/s"
	}
	return fmt.Sprintf("%.1f/s", n)
}

func sizePerSecond(n float64) string { return size(n) + "/s" }

func seconds(n float64) string {
	switch {
	case n < 0.001:
		return fmt.Sprintf("%.0f µs", n*1e6)
	case n < 1:
		return fmt.Sprintf("%.3g ms", n*1e3)
	}
	return fmt.Sprintf("%.3g s", n)
}

// known writes what may be unknown.
func known[T any](v *T, write func(T) string) string {
	if v == nil {
		return "unknown"
	}
	return write(*v)
}
