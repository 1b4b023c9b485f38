package network

import (
	"context"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/worker"
)

// BenchmarkSetup is what a container waits for: its network from namespaces that are ready, as a user starts containers,
// one now and then.
func BenchmarkSetup(b *testing.B) {
	for _, c := range []struct {
		name   string
		change []func(*worker.NetworkRequest)
	}{
		{"bridge", nil},
		{"published", []func(*worker.NetworkRequest){publish("18080:80")}},
		{"none", []func(*worker.NetworkRequest){mode("none")}},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b)
			w.up(request("first"))
			var down time.Duration
			for b.Loop() {
				b.StopTimer()
				for c.name != "none" && w.stock.Ready() == 0 {
					time.Sleep(time.Millisecond)
				}
				r := request("c", c.change...)
				b.StartTimer()
				if _, err := w.Setup(context.Background(), r); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				begin := time.Now()
				w.down(r)
				down += time.Since(begin)
				b.StartTimer()
			}
			b.ReportMetric(float64(down.Microseconds())/float64(b.N), "µs/teardown")
		})
	}
}
