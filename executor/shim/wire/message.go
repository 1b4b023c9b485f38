package wire

import (
	"encoding/json"
	"os"

	"github.com/boxbuild/boxbuild/executor"
)

// An Op says what a message is about.
type Op string

// The operations. A request has an ID that the daemon chose and has not used before; the replies to it have the same.
const (
	// Start starts a sandbox. Replies: Started, then Exited, then Gone; or Failed.
	Start Op = "start"
	// Exec starts one more process in sandbox Of. Replies: Started, then Exited; or Failed.
	Exec Op = "exec"
	// Signal sends a signal to the first process of the sandbox, or to the process of the Exec, with this ID.
	Signal Op = "signal"
	// Kill ends the whole process tree of a sandbox, also one that is still being started, or the process of an Exec.
	Kill Op = "kill"
	// Hooked answers Hooks.
	Hooked Op = "hooked"

	Started Op = "started" // the process runs; the descriptor, if any, is the terminal's
	Exited  Op = "exited"  // the process has ended and nothing holds the root any more
	Gone    Op = "gone"    // the cgroup and the rest are gone; the sandbox's name may be used again
	Failed  Op = "failed"  // nothing runs and nothing is left
	Hooks   Op = "hooks"   // before Started or Failed: the sandbox waits for the hooks that the host runs, until Hooked
)

// A Request goes from the daemon to the shim.
type Request struct {
	Op     Op
	ID     uint64
	Of     uint64            `json:",omitempty"`
	Spec   *executor.Spec    `json:",omitempty"` // without its files: see Files
	Proc   *executor.Process `json:",omitempty"`
	Files  Files
	Signal int    `json:",omitempty"`
	Nodes  []Node `json:",omitempty"`
	Bundle string `json:",omitempty"` // where the daemon will make that of the hooks
	Err    *Error `json:",omitempty"` // of Hooked: why the sandbox must not run
}

// Files says which of a message's descriptors is what: an index from 1, or 0 for none.
type Files struct {
	Root, NetNS           int   `json:",omitempty"`
	Stdin, Stdout, Stderr int   `json:",omitempty"`
	Sources               []int `json:",omitempty"` // one for each of Spec.Mounts
	// Of containers only: the namespaces to join, what is at /dev/shm with that of ipc, and the program for Spec.Init.
	PIDNS, IPCNS, Shm, Init int `json:",omitempty"`
}

// Pick returns the i-th file of a message, counted from 1, or nil.
func Pick(files []*os.File, i int) *os.File {
	if i < 1 || i > len(files) {
		return nil
	}
	return files[i-1]
}

// A Node is a device of the host's, looked up by the daemon since the shim does not see the host's /dev.
type Node struct {
	Path         string // in the sandbox
	Type         string // "c" or "b"
	Major, Minor int64
	Mode         uint32 // permission bits
	UID, GID     uint32
	Access       string // of "rwm"
}

// A Reply goes from the shim to the daemon.
type Reply struct {
	Op   Op
	ID   uint64
	Err  *Error         `json:",omitempty"` // of Failed
	Wait *HooksWait     `json:",omitempty"` // of Hooks
	Exit *executor.Exit `json:",omitempty"` // of Exited
	// Trace holds, for Started, how long each phase took, in nanoseconds.
	Trace map[string]int64 `json:",omitempty"`
}

// HooksWait is what the daemon needs to run hooks. A pidfd of the sandbox's first process comes with it.
type HooksWait struct {
	Place  string          // where the root is, in the process's mount namespace
	Config json.RawMessage // the OCI runtime specification
}

// An Error is an error that crosses the connection.
type Error struct {
	Msg string
	// Kind is that of an error which callers test for; see ErrorOf.
	Kind string `json:",omitempty"`
	// Path and Code are those of an executor.StartError if Code is not 0.
	Path string `json:",omitempty"`
	Code int    `json:",omitempty"`
}
