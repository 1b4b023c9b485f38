package buildkit

import (
	"context"
	"net"
	"testing"

	"github.com/moby/buildkit/client"
	dockerclient "github.com/moby/moby/client"
)

// Docker's command line reaches the builder through the Docker API, by connections that become BuildKit's, and has the
// image put where docker keeps it. Then docker runs it.
func TestThroughDocker(t *testing.T) {
	d := start(t)
	d.load()
	docker, err := dockerclient.New(dockerclient.WithHost(d.addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	c, err := client.New(t.Context(), "", client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return docker.DialHijack(ctx, "/grpc", "h2c", nil)
	}), client.WithSessionDialer(func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
		return docker.DialHijack(ctx, "/session", proto, meta)
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	d.c, c = c, d.c
	opt := opts(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY f /f\nRUN cat /f > /g", "f": "some text"})
	opt.Exports = []client.ExportEntry{{Type: "moby", Attrs: map[string]string{
		"name": "docker.io/library/made:1", "prefer-image-digest": "true",
	}}}
	resp, p := d.must(opt)
	d.c, c = c, d.c
	img, err := docker.ImageInspect(t.Context(), resp.ExporterResponse["containerimage.digest"])
	if err != nil || img.RepoTags[0] != "made:1" {
		t.Errorf("%v: %+v, %v", resp.ExporterResponse, img, err)
	}
	for _, w := range p.warnings {
		t.Errorf("a warning: %s", w.Short)
	}
}
