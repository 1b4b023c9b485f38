package worker

// The names that all services and commands have for the same things, as docker has them.

// DefaultRuntime is the runtime of containers for which none is asked.
const DefaultRuntime = "runc"

// Runtimes are the names by which a container may ask for a runtime. All are boxshim, which is runc's library: docker's names
// are what tools and stored configurations ask for.
var Runtimes = []string{"runc", "io.containerd.runc.v2", RuntimeProgram}

// RuntimeProgram is the program that all Runtimes are.
const RuntimeProgram = "boxshim"

// StorageDriver is what docker calls a snapshotter: what inspect and info show is read by tools, which know overlay2 to have
// a LowerDir, an UpperDir and so on.
func StorageDriver(snapshotter string) string {
	switch snapshotter {
	case "overlay":
		return "overlay2"
	case "native":
		return "vfs"
	}
	return snapshotter
}

// HostGateway is what users write for the address of the host, as containers reach it.
const HostGateway = "host-gateway"
