package eventlog

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/workertest"
)

// What is done with images is told of, in the order in which it was done, and what failed is not.
func TestImages(t *testing.T) {
	log := &Log{}
	fake := &workertest.Images{Registry: map[string]string{"docker.io/library/far:latest": "far"}}
	imgs := Images(fake, log)
	ctx := t.Context()
	id, err := imgs.Import(ctx, strings.NewReader("x"), worker.ImportOptions{Name: "docker.io/library/near:latest"})
	if err != nil {
		t.Fatal(err)
	}
	short := strings.NewReplacer(id.String(), "ID")
	do := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(nil, imgs.Tag(ctx, "near", "other:1"))
	do(imgs.Pull(ctx, "far", worker.TransferOptions{}))
	do(imgs.Push(ctx, "other:1", worker.TransferOptions{}))
	do(nil, imgs.Save(ctx, []string{"near"}, nil, io.Discard))
	do(imgs.Load(ctx, strings.NewReader("loaded:2 y\n"), worker.LoadOptions{}))
	do(imgs.Remove(ctx, "other:1", worker.RemoveOptions{}))
	do(imgs.Remove(ctx, "near", worker.RemoveOptions{}))
	do(imgs.Prune(ctx, worker.PruneOptions{Images: true, Cache: true}))
	if _, err := imgs.Pull(ctx, "nowhere", worker.TransferOptions{}); err == nil {
		t.Error("pulled what is not there")
	}
	b := Builder(&workertest.Builder{Images: fake}, fake, log)
	do(b.Build(ctx, &worker.BuildRequest{
		Frontend: frontend.Request{Text: []byte("FROM scratch\n")}, Tags: []string{"docker.io/library/built:latest"},
		Outputs: []worker.Output{{Type: worker.OutputImage}},
	}, func(solver.Event) {}))

	var got []string
	err = log.Watch(context.Background(), time.Unix(1, 0), time.Now(), nil, func(m events.Message) error {
		what := m.Actor.Attributes["name"]
		if !slices.Contains([]events.Action{"pull", "push", "prune"}, m.Action) {
			if m.Actor.ID == id.String() {
				what = "ID " + short.Replace(m.Actor.Attributes["name"])
			} else {
				what = "sha " + m.Actor.Attributes["name"]
			}
		} else if m.Actor.ID != "" {
			what = m.Actor.ID + " " + what
		}
		if m.Action == events.ActionDelete {
			what = "ID"
		}
		got = append(got, strings.TrimSpace(string(m.Type)+" "+string(m.Action)+" "+what))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"image import ID docker.io/library/near:latest", "image tag ID other:1", "image pull far:latest far", "image push other:1 other",
		"image save ID near", "image load sha loaded:2", "image untag ID other:1", "image untag ID near:latest", "image delete ID",
		"image prune", "builder prune", "image create sha", "image tag sha built:latest",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// labelled are images that all have one label.
type labelled struct{ *workertest.Images }

func (l labelled) Inspect(ctx context.Context, ref string, p *op.Platform) (*worker.ImageDetail, error) {
	img, err := l.Images.Inspect(ctx, ref, p)
	if err != nil {
		return nil, err
	}
	got := *img
	got.Labels = map[string]string{"is": "here"}
	return &got, nil
}

// deriver makes an image of nothing.
type deriver struct{ id digest.Digest }

func (d deriver) Derive(context.Context, *worker.Derivation) (digest.Digest, error) { return d.id, nil }

func (d deriver) ApplyChanges(*frontend.ImageConfig, []string) error { return nil }

// What happens to an image that is there has its labels, by which events are filtered, and an image that is committed
// under a name is said to have been tagged.
func TestImageLabels(t *testing.T) {
	log := &Log{}
	fake := labelled{&workertest.Images{Registry: map[string]string{"docker.io/library/far:latest": "far"}}}
	imgs := Images(fake, log)
	ctx := t.Context()
	id, err := imgs.Import(ctx, strings.NewReader("x"), worker.ImportOptions{Name: "near"})
	if err == nil {
		err = imgs.Tag(ctx, "near", "other:1")
	}
	if err == nil {
		_, err = imgs.Pull(ctx, "far", worker.TransferOptions{})
	}
	if err == nil {
		_, err = Builder(&workertest.Builder{Images: fake.Images}, fake, log).Build(ctx, &worker.BuildRequest{
			Frontend: frontend.Request{Text: []byte("FROM scratch\n")}, Tags: []string{"docker.io/library/built:latest"},
			Outputs: []worker.Output{{Type: worker.OutputImage}},
		}, func(solver.Event) {})
	}
	m := Maker(deriver{id}, fake, log)
	for _, name := range []string{"", "made"} {
		if err == nil {
			_, err = m.Derive(ctx, &worker.Derivation{Name: name})
		}
	}
	if err == nil {
		_, err = imgs.Remove(ctx, "other:1", worker.RemoveOptions{})
	}
	if err == nil {
		_, err = imgs.Remove(ctx, "near", worker.RemoveOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		filters worker.Filters
		want    string
	}{
		{worker.Filters{"label": {"is=here"}}, "import tag pull create tag tag untag untag"},
		{worker.Filters{"label": {"is=gone"}}, ""},
		{nil, "import tag pull create tag tag untag untag delete"},
	} {
		var got []string
		err := log.Watch(ctx, time.Unix(1, 0), time.Now(), tt.filters, func(m events.Message) error {
			got = append(got, string(m.Action))
			return nil
		})
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%v: %q, want %q; %v", tt.filters, got, tt.want, err)
		}
	}
}
