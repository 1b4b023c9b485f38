package solver

import "runtime"

// Options tune a Solver. The zero value is good for a daemon; a field that is zero or less means its default.
type Options struct {
	// Parallelism is how many steps run at once, over all builds, when the Runner is not an Admitter.
	// Default: four per CPU, at least 16, since most steps wait for disk or network most of the time.
	Parallelism int
	// Probes is how many cache look-ups there are at once, over all builds. Default: 16.
	Probes int
	// Hashes is how many vertices have their inputs' content digested at once, over all builds. Default: two per CPU.
	Hashes int
	// Retries is how often in a row a vertex may find something that it needs lost before it fails. Default: 10.
	Retries int
	// LogMemory is how many bytes of a step's output are kept in memory for slow readers and late joiners; what is
	// older goes to an unnamed file in LogDir. Default: 256 KiB.
	LogMemory int
	// LogDir is where output beyond LogMemory goes while its step runs. Default: the system's temporary directory.
	LogDir string
}

func (o Options) withDefaults() Options {
	def := func(field *int, value int) {
		if *field <= 0 {
			*field = value
		}
	}
	def(&o.Parallelism, max(16, 4*runtime.GOMAXPROCS(0)))
	def(&o.Probes, 16)
	def(&o.Hashes, 2*runtime.GOMAXPROCS(0))
	def(&o.Retries, 10)
	def(&o.LogMemory, 256<<10)
	return o
}
