package shim_test

import (
	"testing"

	"github.com/boxbuild/boxbuild/executor"
)

// One sandbox after the other: what a Dockerfile of many RUN lines costs beyond its commands.
func BenchmarkSequential(b *testing.B) {
	e := newExecutor(b, withNetwork(b))
	root, _ := newRoot(b)
	for b.Loop() {
		spec := sh(root, "")
		spec.Process.Args = []string{"/bin/true"}
		spec.Network.Mode = executor.NetworkBridge
		if r := run(b, e, spec); r.exit.Code != 0 {
			b.Fatal(r)
		}
	}
}

// Twenty at a time, on however many processors there are.
func BenchmarkParallel20(b *testing.B) {
	e := newExecutor(b, withNetwork(b))
	root, _ := newRoot(b)
	b.SetParallelism(20)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			spec := sh(root, "")
			spec.Process.Args = []string{"/bin/true"}
			spec.Network.Mode = executor.NetworkBridge
			if r, err := tryRun(e, spec); err != nil || r.exit.Code != 0 {
				b.Error(r, err)
				return
			}
		}
	})
}
