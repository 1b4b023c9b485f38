package shim_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/shim"
)

// BenchmarkHost measures the life of a container that does nothing, with the keepers that are started ahead having had the
// time to get ready, as they do between two commands of a user's.
func BenchmarkHost(b *testing.B) {
	for name, network := range map[string]executor.Network{
		"None": {Mode: executor.NetworkNone}, "Path": {Mode: executor.NetworkPath, Path: "/proc/self/ns/net"},
	} {
		b.Run(name, func(b *testing.B) {
			h := newHost(b)
			root, _ := newRoot(b)
			dir := b.TempDir()
			phases := make(map[string]time.Duration)
			i := 0
			for b.Loop() {
				b.StopTimer()
				shim.AwaitStock(h)
				b.StartTimer()
				i++
				spec := &executor.Spec{
					ID: "bench-" + strconv.Itoa(i), Root: root, Process: executor.Process{Args: []string{"/bin/true"}}, Network: network,
				}
				t0 := time.Now()
				c, err := h.Create(context.Background(), dir, spec, executor.HostOptions{
					Log: executor.Log{Driver: "json-file", Path: filepath.Join(dir, "log")},
				})
				if err != nil {
					b.Fatal(err)
				}
				t1 := time.Now()
				if err := c.Run(context.Background(), ""); err != nil {
					b.Fatal(err)
				}
				t2 := time.Now()
				if _, err := c.Wait(context.Background(), ""); err != nil {
					b.Fatal(err)
				}
				t3 := time.Now()
				if err := c.Delete(context.Background()); err != nil {
					b.Fatal(err)
				}
				phases["delete"] += time.Since(t3)
				phases["create"] += t1.Sub(t0)
				phases["run"] += t2.Sub(t1)
				phases["wait"] += t3.Sub(t2)
				for name, ns := range shim.HostTrace(c) {
					phases["create/"+name] += time.Duration(ns)
				}
			}
			for name, d := range phases {
				b.ReportMetric(float64(d.Microseconds())/1000/float64(i), name+"-ms")
			}
		})
	}
}

// BenchmarkKeeperMemory reports what a keeper of a container that sleeps keeps in memory, in KiB: its own, and all.
func BenchmarkKeeperMemory(b *testing.B) {
	h := newHost(b)
	root, _ := newRoot(b)
	spec := &executor.Spec{
		ID: "bench", Root: root, Process: executor.Process{Args: []string{"/bin/sleep", "1000"}},
		Network: executor.Network{Mode: executor.NetworkNone},
	}
	dir := b.TempDir()
	c, err := h.Create(context.Background(), dir, spec, executor.HostOptions{
		Log: executor.Log{Driver: "json-file", Path: filepath.Join(dir, "log")},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Delete(context.Background())
	if err := c.Run(context.Background(), ""); err != nil {
		b.Fatal(err)
	}
	keeper := keeperOf(b, c)
	for b.Loop() {
		data, err := os.ReadFile("/proc/" + strconv.Itoa(keeper) + "/status")
		if err != nil {
			b.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) == 3 && (f[0] == "VmRSS:" || f[0] == "RssAnon:") {
				kib, _ := strconv.ParseFloat(f[1], 64)
				b.ReportMetric(kib, strings.TrimSuffix(f[0], ":")+"-KiB")
			}
		}
	}
}
