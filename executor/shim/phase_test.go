package shim_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim"
)

// BenchmarkPhases reports where the time of a start goes: the medians of the shim's phases, and of what the daemon waits
// for.
func BenchmarkPhases(b *testing.B) {
	e := newExecutor(b, withNetwork(b))
	root, _ := newRoot(b)
	all := make(map[string][]int64)
	for b.Loop() {
		spec := sh(root, "")
		spec.Process.Args = []string{"/bin/true"}
		spec.Network.Mode = executor.NetworkBridge
		begin := time.Now()
		box, err := e.Start(context.Background(), spec, executor.IO{})
		if err != nil {
			b.Fatal(err)
		}
		started := time.Now()
		if _, err := box.Wait(context.Background()); err != nil {
			b.Fatal(err)
		}
		waited := time.Now()
		box.Close()
		for phase, ns := range shim.Trace(box) {
			all[phase] = append(all[phase], ns)
		}
		all["start"] = append(all["start"], started.Sub(begin).Nanoseconds())
		all["wait"] = append(all["wait"], waited.Sub(started).Nanoseconds())
	}
	for phase, list := range all {
		slices.Sort(list)
		b.ReportMetric(float64(list[len(list)/2])/1e6, phase+"-ms")
	}
}
