package solver

import (
	"context"
	"errors"
)

// A LeftError is the failure of a step with the trees as the step left them, for those who look into why it failed. Only
// steps of builds that want it have one, see KeepLeft.
type LeftError struct {
	// Left has a tree for each mount of a process, and for each action of a file operation; "" where nothing was written.
	// They are not cached, and gone when the builds are over that wanted them.
	Left []Result
	Err  error
}

func (e *LeftError) Error() string { return e.Err.Error() }

// Unwrap returns the failure itself.
func (e *LeftError) Unwrap() error { return e.Err }

type leftKey struct{}

// KeepLeft returns a context for Solve whose steps keep what they have written when they fail, if the Runner can.
func KeepLeft(ctx context.Context) context.Context { return context.WithValue(ctx, leftKey{}, true) }

// KeepsLeft says whether a build that waits for the step whose context ctx is wants what it leaves.
func KeepsLeft(ctx context.Context) bool { return ctx.Value(leftKey{}) == true }

// An InputError is the failure of a step before it began: one of its inputs, by number, lacks what the step is to read of it.
type InputError struct {
	Input int
	Err   error
}

// Error implements error.
func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap returns what was lacking.
func (e *InputError) Unwrap() error { return e.Err }

// anyKeepsLeft says whether a member of f wants what the step leaves.
func (f *flight) anyKeepsLeft() bool {
	for _, m := range f.current() {
		if m.value(leftKey{}) == true {
			return true
		}
	}
	return false
}

// holdLeft makes what a step that failed with err has left the own of every member that wants it. None of them is told of the
// failure before: with the build that ran the step its lease ends.
func holdLeft(err error, members []*member) {
	var left *LeftError
	if !errors.As(err, &left) {
		return
	}
	var trees []Result
	for _, r := range left.Left {
		if r != "" {
			trees = append(trees, r)
		}
	}
	for _, m := range members {
		if m.value(leftKey{}) == true {
			_ = m.hold(trees) // what is gone nonetheless is missed by who looks into it
		}
	}
}
