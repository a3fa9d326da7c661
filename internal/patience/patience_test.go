package patience

import (
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

func answer(n int) func() (int, error) { return func() (int, error) { return n, nil } }

// Two who ask cost one goroutine while the question hangs.
func TestAskGivesUpOnWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Asker[int]
		hang := make(chan struct{})
		asked := 0
		for range 2 {
			v, err := a.Ask(func() (int, error) { asked++; <-hang; return 7, nil })
			if !errors.Is(err, ErrLate) {
				t.Errorf("Ask = %d, %v, want ErrLate", v, err)
			}
		}
		close(hang)
		synctest.Wait()
		if asked != 1 {
			t.Errorf("%d questions were on their way at a time, want 1", asked)
		}
		if v, err := a.Ask(answer(8)); v != 8 || err != nil {
			t.Errorf("Ask = %d, %v, want 8", v, err)
		}
	})
}

func TestAskOfWhatEndsBadly(t *testing.T) {
	var a Asker[int]
	bad := errors.New("bad")
	if _, err := a.Ask(func() (int, error) { return 1, bad }); !errors.Is(err, bad) {
		t.Errorf("Ask = %v, want fn's error", err)
	}
	if _, err := a.Ask(func() (int, error) { panic("boom") }); err == nil {
		t.Error("a question that panics is answered")
	}
	if _, err := a.Ask(func() (int, error) { runtime.Goexit(); return 1, nil }); !errors.Is(err, ErrLate) {
		t.Errorf("Ask = %v, want ErrLate", err)
	}
}

func TestLastAnswerStandsForALateOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Asker[int]
		hang := make(chan struct{})
		late := func() (int, error) { <-hang; return 9, nil }
		if _, err := a.AskOrLast(late); !errors.Is(err, ErrLate) {
			t.Errorf("without any answer: %v, want ErrLate", err)
		}
		close(hang)
		synctest.Wait()
		hang = make(chan struct{})
		if v, err := a.AskOrLast(late); v != 9 || err != nil {
			t.Errorf("AskOrLast = %d, %v, want the answer before", v, err)
		}
		time.Sleep(Recent)
		if v, err := a.AskOrLast(late); v != 9 || !errors.Is(err, ErrLate) {
			t.Errorf("after %v: %d, %v, want the answer before and ErrLate", Recent, v, err)
		}
		close(hang)
	})
}
