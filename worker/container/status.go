package container

import (
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/boxbuild/boxbuild/executor"
)

// A Phase is where a container is in its life.
type Phase string

// The phases.
const (
	Created    Phase = "created"    // it has never run
	Running    Phase = "running"    // its first process runs
	Paused     Phase = "paused"     // and is frozen
	Restarting Phase = "restarting" // it has ended, and will run again at Status.Next
	Exited     Phase = "exited"     // it has ended
	Removing   Phase = "removing"   // it is being removed, and will be nothing else any more
	Dead       Phase = "dead"       // that has failed, and will be tried again
	Gone       Phase = "gone"       // it is removed
)

// A Want is what is to be of a container.
type Want string

// The wants.
const (
	WantAny    Want = ""       // as it is
	WantRun    Want = "run"    // it runs, and again when it ends if its policy says so
	WantPause  Want = "pause"  // it is paused
	WantStop   Want = "stop"   // it does not run
	WantRemove Want = "remove" // it is gone
)

// A Status is how a container stands. It is a value.
type Status struct {
	Phase      Phase
	Pid        int `json:",omitempty"` // of the first process, on the host
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int    `json:",omitempty"`
	OOMKilled  bool   `json:",omitempty"`
	Error      string `json:",omitempty"` // why it did not start
	// Restarts is how often the policy has run it again since a user has started it.
	Restarts int       `json:",omitempty"`
	Next     time.Time `json:",omitzero"` // when it is run again; only in phase Restarting
	// Backoff is how long the last wait was.
	Backoff time.Duration `json:",omitempty"`
	// Health is that of the last run; nil without health checks.
	Health *container.Health `json:",omitempty"`
}

// Alive says whether there are processes.
func (s Status) Alive() bool { return s.Phase == Running || s.Phase == Paused }

// Up says whether docker calls the container running: also while it waits to be restarted.
func (s Status) Up() bool { return s.Alive() || s.Phase == Restarting }

// The back-off of restart policies, as docker's.
const (
	backoffFirst = 100 * time.Millisecond
	backoffMost  = time.Minute
	// backoffReset is how long a run has to last for the back-off to begin anew.
	backoffReset = 10 * time.Second
)

// An Ending is the end of a container's first process and what is known of it.
type Ending struct {
	executor.Exit
	Policy container.RestartPolicy
	// Stopped says that a user has wanted it to end.
	Stopped bool
}

// Ended returns the status of a container in status now whose process has ended: Restarting, if the policy says so, or
// Exited.
func Ended(now Status, e Ending) Status {
	next := now
	next.Pid, next.Next = 0, time.Time{}
	next.Phase, next.ExitCode, next.FinishedAt, next.OOMKilled = Exited, e.Code, e.At, e.OOMKilled
	if e.At.Sub(now.StartedAt) >= backoffReset {
		next.Backoff = 0
	}
	if e.Stopped || !restarts(e, now.Restarts) {
		return next
	}
	next.Phase = Restarting
	next.Restarts++
	next.Backoff = min(max(2*next.Backoff, backoffFirst), backoffMost)
	next.Next = e.At.Add(next.Backoff)
	return next
}

// restarts says whether a policy has a container run again that has been run again that often.
func restarts(e Ending, already int) bool {
	switch e.Policy.Name {
	case container.RestartPolicyAlways, container.RestartPolicyUnlessStopped:
		return true
	case container.RestartPolicyOnFailure:
		return e.Code != 0 && (e.Policy.MaximumRetryCount == 0 || already < e.Policy.MaximumRetryCount)
	case container.RestartPolicyDisabled:
	}
	return false
}
