package buildkit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
)

// TestFiles checks that a build's files reach the client's directory, and what the client is told meanwhile.
func TestFiles(t *testing.T) {
	d := start(t)
	d.load()
	opt := opts(t, map[string]string{
		"Dockerfile": "FROM busybox AS build\nCOPY in /in\nARG who\nRUN echo hello $who; echo made by $who > /out\n" +
			"FROM scratch\nCOPY --from=build /out /in /\n",
		"in": "input",
	})
	opt.FrontendAttrs["build-arg:who"] = "me"
	dest := t.TempDir()
	opt.Exports = []client.ExportEntry{{Type: client.ExporterLocal, OutputDir: dest}}
	resp, p := d.must(opt)
	for name, want := range map[string]string{"out": "made by me\n", "in": "input"} {
		got, err := os.ReadFile(filepath.Join(dest, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	if len(resp.ExporterResponse) != 0 {
		t.Errorf("the response has %v", resp.ExporterResponse)
	}
	run := p.has("RUN echo")
	if run == nil || run.Started == nil || run.Completed == nil || run.Error != "" || run.Cached {
		t.Fatalf("got %+v of %q", run, p.order)
	}
	if got := p.logs[run.Name]; !strings.Contains(got, "hello me\n") {
		t.Errorf("the step's log is %q", got)
	}
	for _, want := range []string{"[internal] load build definition from Dockerfile", "[build 2/3] COPY in /in", "exporting to client directory"} {
		if p.vertices[want] == nil {
			t.Errorf("no %q among %q", want, p.order)
		}
	}
	_, p = d.must(opt)
	if run := p.has("RUN echo"); run == nil || !run.Cached {
		t.Errorf("the second time: got %+v", run)
	}
}
