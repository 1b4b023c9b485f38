package wire

// Files in a container's directory, which the keeper writes and a daemon reads when there is no keeper to ask. Each is
// replaced by renaming.
const (
	SocketFile = "keeper.sock" // where the keeper listens
	StateFile  = "keeper.json" // a State, for as long as there may be something to clear away
	ExitFile   = "exit.json"   // an executor.Exit, of the first process
)

// A State is what a keeper that is killed leaves behind.
type State struct {
	Cgroup string // of the container, in every hierarchy
	// Dir is the number of the container's directory in its file system, by which a State is known not to be a copy.
	Dir    uint64 `json:",omitempty"`
	Keeper int    // the keeper's number in its own pid namespace: 1, unless it shares another's
}
