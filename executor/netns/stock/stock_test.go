package stock

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A stock has its low mark at once, all of it when nobody has asked for a while, and makes one itself when it is empty.
func TestFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		s := New(Options{Low: 2, High: 5}, func() (int, error) { made++; return made, nil })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Fill(ctx) }()
		synctest.Wait()
		if got := s.Ready(); got != 2 {
			t.Errorf("at once: got %d, want 2", got)
		}
		time.Sleep(2 * quiet)
		synctest.Wait()
		if got := s.Ready(); got != 5 {
			t.Errorf("when quiet: got %d, want 5", got)
		}
		for want := 1; want <= 4; want++ {
			if got, err := s.Take(); got != want || err != nil {
				t.Errorf("got %d, %v, want %d", got, err, want)
			}
			synctest.Wait()
		}
		if got := s.Ready(); got != 2 {
			t.Errorf("while busy: got %d, want 2", got)
		}
		cancel()
		<-done
		var released []int
		s.Close(func(i int) { released = append(released, i) })
		if len(released) != 2 || s.Ready() != 0 {
			t.Errorf("got %v released, %d left", released, s.Ready())
		}
		if got, err := s.Take(); got != made || err != nil {
			t.Errorf("of an empty stock: got %d, %v", got, err)
		}
	})
}

// What cannot be made is not tried again and again; whoever asks for it gets the error.
func TestMakingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		full := errors.New("full")
		s := New(Options{Low: 1, High: 2}, func() (int, error) { tries++; return 0, full })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Fill(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if tries > 3 {
			t.Errorf("tried %d times", tries)
		}
		if _, err := s.Take(); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
		cancel()
		<-done
	})
}
