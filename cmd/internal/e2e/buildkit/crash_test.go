package buildkit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
)

// TestCrash kills the daemon at a random instant of many builds, again and again. The next one says of each that the
// daemon ended, has no blob that is not what its name says and nothing half-written, and what it builds is right, with
// whatever the last one left in the cache. CRASH_SEED repeats the instants, CRASH_ROUNDS is how many there are.
func TestCrash(t *testing.T) {
	seed, err := strconv.ParseUint(os.Getenv("CRASH_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("CRASH_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	rounds := 4
	if n, err := strconv.Atoi(os.Getenv("CRASH_ROUNDS")); err == nil {
		rounds = n
	}
	d := start(t)
	d.load()
	for round := range rounds {
		const builds = 20
		crash := time.Duration(rnd.IntN(1500)) * time.Millisecond
		var wg sync.WaitGroup
		ended := make([]bool, builds)
		for i := range builds {
			wg.Go(func() {
				l, err := crashing(t, d.c, fmt.Sprintf("r%db%d", round, i), round*builds+i, i%3)
				if ended[i] = err == nil; ended[i] && l != wanted(round*builds+i) {
					t.Errorf("build %d has %q", i, l)
				}
			})
		}
		time.Sleep(crash)
		d.crash()
		wg.Wait()
		d.again()
		for i := range builds {
			ref := fmt.Sprintf("r%db%d", round, i)
			for _, rec := range d.histories(&controlapi.BuildHistoryRequest{Ref: ref}) {
				if why := rec.GetError().GetMessage(); rec.GetCompletedAt() == nil || !ended[i] && why != "" && !strings.Contains(why, "daemon") {
					t.Errorf("round %d: the history has of build %d %q", round, i, why)
				}
			}
		}
		d.sound()
		for i := range 3 {
			n := round*builds + i
			if l, err := crashing(t, d.c, fmt.Sprintf("r%da%d", round, i), n, i); err != nil || l != wanted(n) {
				t.Errorf("round %d: afterwards build %d has %q, %v", round, n, l, err)
			}
		}
		if t.Failed() {
			t.Fatalf("round %d, after %v", round, crash)
		}
	}
}

// crashing builds number i, of one kind or another, and returns the file /result of it.
func crashing(t *testing.T, c *client.Client, ref string, i, kind int) (string, error) {
	var s sink
	var text strings.Builder
	text.WriteString("FROM busybox\n")
	for n := range steps {
		fmt.Fprintf(&text, "RUN %s\n", script(i, n))
	}
	text.WriteString("COPY own /own\nRUN cat /own >> /result\n")
	opt := opts(t, map[string]string{"Dockerfile": text.String(), "own": fmt.Sprintf("context %d\n", i)})
	opt.Ref = ref
	opt.Exports = []client.ExportEntry{s.to(client.ExporterTar, nil)}
	switch kind {
	case 1:
		opt.Exports = append(opt.Exports, client.ExportEntry{Type: client.ExporterImage, Attrs: map[string]string{"name": "crash:" + ref}})
	case 2:
		opt.Exports = append(opt.Exports, client.ExportEntry{
			Type: client.ExporterOCI, Output: func(map[string]string) (io.WriteCloser, error) { return &sink{}, nil },
		})
	}
	if _, err := c.Solve(t.Context(), nil, opt, drained()); err != nil {
		return "", err
	}
	return readTar(t, &s.Buffer)["result"], nil
}

// crash kills the daemon.
func (d *daemon) crash() {
	d.t.Helper()
	if err := d.cmd.Process.Kill(); err != nil {
		d.t.Error(err)
	}
	_ = d.cmd.Wait() // the error is the signal
}

// again starts another daemon with the same root.
func (d *daemon) again() {
	d.t.Helper()
	_ = d.c.Close()
	d.launch()
	d.answers()
	var err error
	if d.c, err = client.New(context.Background(), d.addr()); err != nil {
		d.t.Fatal(err)
	}
	if err := d.c.Wait(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

// sound checks that each blob is what its name says, and that nothing half-written is there. No build runs.
func (d *daemon) sound() {
	d.t.Helper()
	blobs, err := filepath.Glob(filepath.Join(d.root, "blobs/sha256/*"))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, path := range blobs {
		text, err := os.ReadFile(path)
		if err != nil {
			d.t.Error(err)
		}
		if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != filepath.Base(path) {
			d.t.Errorf("the blob %s of %d bytes is not what its name says", path, len(text))
		}
	}
	if left := drafts(d.root); len(left) > 0 {
		d.t.Errorf("half-written: %q", left)
	}
}
