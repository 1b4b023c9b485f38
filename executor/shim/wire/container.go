package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/boxbuild/boxbuild/executor"
)

// A Verb is what a Call asks for.
type Verb string

// The operations of a keeper. Each Call has one Answer. A daemon may talk to a keeper that an older one has
// started: fields and operations are only added, and an unknown operation is an error of that call.
const (
	Warm   Verb = "warm"   // to a keeper that has no container yet: get ready for one like most
	Create Verb = "create" // the first call but Warm: make the container
	Add    Verb = "add"    // add a process
	Attach Verb = "attach" // connect the descriptor that comes along
	Run    Verb = "run"
	Resize Verb = "resize"
	Send   Verb = "signal"
	Wait   Verb = "wait"
	List   Verb = "list" // of processes
	Pause  Verb = "pause"
	Resume Verb = "resume"
	Update Verb = "update"
	Stats  Verb = "stats"
	Delete Verb = "delete"
	Ran    Verb = "ran" // of hooks, which an answer to Create has asked for; its answer is that of Create
)

// A Call goes from a daemon to a keeper.
type Call struct {
	Op        Verb
	ID        uint64            // of the call; chosen by the daemon, and not used before on the connection
	Proc      string            `json:",omitempty"` // which process it is about
	Create    *NewContainer     `json:",omitempty"`
	Process   *executor.Process `json:",omitempty"` // of Add
	OpenStdin bool              `json:",omitempty"` // of Add
	Streams   executor.Streams  // of Attach
	Signal    syscall.Signal    `json:",omitempty"`
	Rows      uint16            `json:",omitempty"`
	Cols      uint16            `json:",omitempty"`
	Limits    *executor.Limits  `json:",omitempty"`
	Err       *Error            `json:",omitempty"` // of Ran: why the container must not run
}

// NewContainer is what a container is made of. The indices of descriptors are counted from 1, 0 stands for none.
type NewContainer struct {
	Request  Request // its Spec, Files and Nodes
	Options  executor.HostOptions
	Cgroup   string // parent of the container's cgroup
	AppArmor bool   // the kernel has it
	Listener int    // a socket that listens
	Dir      int    // the container's directory
	LogDir   int    // where the log is; its name is the base name of Options.Log.Path
	// Filter is the compiled filter, without its rules, of which Program is the code.
	Filter  json.RawMessage `json:",omitempty"`
	Program int
}

// An Answer goes from a keeper to a daemon.
type Answer struct {
	ID   uint64
	Err  *Error         `json:",omitempty"`
	Exit *executor.Exit `json:",omitempty"` // of Wait
	// Procs are, of Create and List, the processes that have not ended, and Cgroup is the container's.
	Procs  []Proc          `json:",omitempty"`
	Cgroup string          `json:",omitempty"`
	Stats  *executor.Stats `json:",omitempty"`
	// Filter is, of Warm and Create, what the keeper has compiled. Its code comes as a descriptor.
	Filter  json.RawMessage `json:",omitempty"`
	Program int             `json:",omitempty"`
	// Wait is set by Create if hooks have to be run: the caller then says Ran, and has the rest of the answer from that.
	Wait *HooksWait `json:",omitempty"`
	// Trace holds, for Create, how long each phase took, in nanoseconds.
	Trace map[string]int64 `json:",omitempty"`
}

// A Proc is a process. PidFD is the index of a pidfd, by which the daemon learns the process's number in its own namespace.
type Proc struct {
	ID    string
	PidFD int
}

// kinds are the errors that cross a connection as what they are.
var kinds = map[string]error{
	"done":       os.ErrProcessDone,
	"notrunning": executor.ErrNotRunning,
	"noterminal": executor.ErrNoTerminal,
	"exists":     fs.ErrExist,
	"unknown":    fs.ErrNotExist,
}

// ErrorOf returns err as it crosses a connection.
func ErrorOf(err error) *Error {
	if err == nil {
		return nil
	}
	out := &Error{Msg: err.Error()}
	var se *executor.StartError
	if errors.As(err, &se) {
		out.Path, out.Code, out.Msg = se.Path, se.Code, se.Err.Error()
	}
	for kind, e := range kinds {
		if errors.Is(err, e) {
			out.Kind = kind
		}
	}
	return out
}

// Err returns the error that ErrorOf was given, as far as it crossed. A nil Error is none.
func (e *Error) Err() error {
	switch {
	case e == nil:
		return nil
	case e.Code != 0:
		return &executor.StartError{Path: e.Path, Code: e.Code, Err: errors.New(e.Msg)}
	}
	if k := kinds[e.Kind]; k != nil {
		if e.Msg == k.Error() {
			return k
		}
		return &remote{e.Msg, k}
	}
	return errors.New(e.Msg)
}

// A remote is an error with the text that it had at the other end.
type remote struct {
	msg  string
	kind error
}

func (r *remote) Error() string { return r.msg }
func (r *remote) Unwrap() error { return r.kind }

// Number returns the number that the process of a pidfd has as this process sees it, 0 if it has ended or is not seen.
func Number(pidfd *os.File) int {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd()))
	if err != nil {
		return 0
	}
	return parseInfo(string(info))
}
