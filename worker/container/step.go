package container

import "context"

// A Controller does what Step decides. Every method is idempotent, and returns the status that it has led to; with an
// error that is the status to record all the same.
type Controller interface {
	// Start runs a container that does not run.
	Start(ctx context.Context, now Status) (Status, error)
	// Pause and Resume freeze one that runs, and let it go on.
	Pause(ctx context.Context, now Status) (Status, error)
	Resume(ctx context.Context, now Status) (Status, error)
	// Kill ends one that runs, and returns when it has ended.
	Kill(ctx context.Context, now Status) (Status, error)
	// Delete removes one that does not run: Gone, or Dead with an error.
	Delete(ctx context.Context, now Status) (Status, error)
}

// Step makes at most one transition of a container towards what is wanted, and returns the status to record. When it
// returns its argument and no error there is nothing to do.
func Step(ctx context.Context, c Controller, now Status, want Want) (Status, error) {
	switch now.Phase {
	case Gone:
		return now, nil
	case Removing, Dead: // there is no way back
		if want == WantRemove {
			return c.Delete(ctx, now)
		}
		return now, nil
	case Created, Exited:
		return stepIdle(ctx, c, now, want)
	case Restarting:
		return stepRestarting(ctx, c, now, want)
	case Running, Paused:
		return stepAlive(ctx, c, now, want)
	}
	panic("container: unknown phase " + string(now.Phase))
}

func stepIdle(ctx context.Context, c Controller, now Status, want Want) (Status, error) {
	switch want {
	case WantRun, WantPause:
		return c.Start(ctx, now)
	case WantRemove:
		now.Phase = Removing
		return now, nil
	case WantAny, WantStop:
	}
	return now, nil
}

func stepRestarting(ctx context.Context, c Controller, now Status, want Want) (Status, error) {
	switch want {
	case WantRun, WantPause:
		return c.Start(ctx, now) // who calls has waited, or need not
	case WantStop, WantRemove:
		now.Phase = Exited
		return now, nil
	case WantAny:
	}
	return now, nil
}

func stepAlive(ctx context.Context, c Controller, now Status, want Want) (Status, error) {
	switch {
	case want == WantRun && now.Phase == Paused:
		return c.Resume(ctx, now)
	case want == WantPause && now.Phase == Running:
		return c.Pause(ctx, now)
	case want == WantStop, want == WantRemove:
		return c.Kill(ctx, now)
	}
	return now, nil
}

// maxSteps is more than the longest way from any status to any want.
const maxSteps = 5

// Reach steps until nothing is left to do, or something fails. record is called with each status on the way.
func Reach(ctx context.Context, c Controller, now Status, want Want, record func(Status)) error {
	for range maxSteps {
		next, err := Step(ctx, c, now, want)
		if err != nil || next != now {
			record(next)
		}
		if err != nil || next == now {
			return err
		}
		now = next
	}
	panic("container: no end of steps from " + string(now.Phase) + " to " + string(want))
}
