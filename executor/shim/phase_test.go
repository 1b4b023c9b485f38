package shim_test

import (
	"context"
	"os"
	"sort"
	"strconv"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim"
)

func TestPhases(t *testing.T) {
	e := newExecutor(t)
	root, _ := newRoot(t)
	all := map[string][]float64{}
	for range phaseRuns() {
		spec := sh(root, "")
		spec.Process.Args = []string{"/bin/true"}
		spec.Seccomp.Unconfined = os.Getenv("UNC") != ""
		t0 := time.Now()
		b, err := e.Start(context.Background(), spec, executor.IO{})
		if err != nil {
			t.Fatal(err)
		}
		t1 := time.Now()
		b.Wait(context.Background())
		t2 := time.Now()
		b.Close()
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		all["total"] = append(all["total"], ms(time.Since(t0)))
		all["start"] = append(all["start"], ms(t1.Sub(t0)))
		all["wait"] = append(all["wait"], ms(t2.Sub(t1)))
		for k, v := range shim.Trace(b) {
			all[k] = append(all[k], float64(v)/1e6)
		}
	}
	for k, v := range all {
		sort.Float64s(v)
		t.Logf("%-10s min %.2f p25 %.2f median %.2f p75 %.2f", k, v[0], v[len(v)/4], v[len(v)/2], v[len(v)*3/4])
	}
}

func phaseRuns() int {
	if os.Getenv("RUNS") != "" {
		n, _ := strconv.Atoi(os.Getenv("RUNS"))
		return n
	}
	return 100
}
