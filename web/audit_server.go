package web

import (
	"fmt"
	"time"
)

// Begin writes the first line of an action that the server takes by itself, such
// as the reset of a lock. The action must not be taken if that fails. Its end is
// told with the function returned, and with "done" or a word for what went wrong.
func (l *Audit) Begin(name, target string, facts map[string]any) (end func(result string) error, err error) {
	line := AuditLine{
		ID: newID(), At: time.Now().UTC(), Actor: "engramfs", Via: "server",
		Action: name, Target: target, Facts: facts, Result: auditBegun,
	}
	if err := l.append(line); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return func(result string) error {
		line.At, line.Result = time.Now().UTC(), result
		return l.append(line)
	}, nil
}
