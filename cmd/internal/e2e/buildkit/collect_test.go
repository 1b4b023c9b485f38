package buildkit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
)

// TestCollected checks that what builds leave is removed by the daemon itself when it is more than its configuration allows,
// and not by a client.
func TestCollected(t *testing.T) {
	needed(t)
	config := filepath.Join(t.TempDir(), "boxbuildd.toml")
	const rule = "[worker.oci]\n  gc = true\n  [[worker.oci.gcpolicy]]\n    all = true\n    maxUsedSpace = 1\n"
	if err := os.WriteFile(config, []byte(rule), 0o600); err != nil {
		t.Fatal(err)
	}
	d := start(t, "--config", config)
	opt := opts(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY file /\n", "file": strings.Repeat("x", 1<<16)})
	d.must(opt)
	for { // the collector waits a second for the next build
		du, err := d.c.DiskUsage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !has(du, "COPY file /") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, p := d.must(opt); p.has("COPY file /").Cached {
		t.Error("what has no record is found in the cache all the same")
	}
}

// has says whether a record was made by a step whose name contains text.
func has(records []*client.UsageInfo, text string) bool {
	for _, r := range records {
		if strings.Contains(r.Description, text) {
			return true
		}
	}
	return false
}
