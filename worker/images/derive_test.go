package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/worker"
)

// layerOf writes a tar of one file, or of nothing.
func layerOf(name, content string) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error {
		t := tar.NewWriter(w)
		if name != "" {
			if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
				return err
			}
			if _, err := io.WriteString(t, content); err != nil {
				return err
			}
		}
		return t.Close()
	}
}

// An image that is made of another has its layers, one more if anything was added, a line of history either way, and the
// config that it was given.
func TestDerive(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		importFile(t, s, "base:1", "f", "content")
		base, err := s.images.Get("base:1", nil)
		if err != nil {
			t.Fatal(err)
		}
		parent := base.Layers[0].Snapshot
		for _, tt := range []struct {
			file   string
			layers int
		}{{"added", 2}, {"", 1}} {
			id, err := s.Derive(t.Context(), &worker.Derivation{
				Base: base, Parent: parent, Tar: layerOf(tt.file, "more"), Name: "made:1", History: ocispec.History{Comment: "why"},
				Edit: func(c *frontend.ImageConfig) error { return s.ApplyChanges(c, []string{"ENV A=b"}) },
			})
			if err != nil {
				t.Fatal(err)
			}
			img, err := s.images.Get("made:1", nil)
			if err != nil || img.ID != id || len(img.Layers) != tt.layers {
				t.Fatalf("%q: image %s, %v, %d layers", tt.file, id, err, len(img.Layers))
			}
			var c frontend.ImageConfig
			if err := json.Unmarshal(img.Config, &c); err != nil {
				t.Fatal(err)
			}
			last := c.History[len(c.History)-1]
			if len(c.Config.Env) != 1 || last.Comment != "why" || last.EmptyLayer != (tt.file == "") || len(c.RootFS.DiffIDs) != tt.layers {
				t.Errorf("%q: the config is %s", tt.file, img.Config)
			}
		}
		cause := errors.New("the cause")
		for name, d := range map[string]*worker.Derivation{
			"tar":  {Base: base, Parent: parent, Tar: func(context.Context, io.Writer) error { return cause }},
			"edit": {Base: base, Parent: parent, Tar: layerOf("", ""), Edit: func(*frontend.ImageConfig) error { return cause }},
		} {
			if _, err := s.Derive(t.Context(), d); !errors.Is(err, cause) {
				t.Errorf("%s: error is %v", name, err)
			}
		}
		if _, err := s.Derive(t.Context(), &worker.Derivation{Name: "BAD NAME"}); err == nil {
			t.Error("a bad name was taken")
		}
	})
}

// lineage commits an image base:1 to mid:1, and that to top:1, and returns the IDs of the three.
func lineage(t *testing.T, s *Service) (ids [3]digest.Digest) {
	t.Helper()
	importFile(t, s, "base:1", "f", "content")
	for i, name := range []string{"base:1", "mid:1", "top:1"} {
		if i > 0 {
			base, err := s.images.Get(string(ids[i-1]), nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Derive(t.Context(), &worker.Derivation{
				Base: base, Parent: base.Layers[len(base.Layers)-1].Snapshot, Tar: layerOf("added", name), Name: name,
				History: ocispec.History{CreatedBy: name}, Edit: func(*frontend.ImageConfig) error { return nil },
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		img, err := s.images.Get(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = img.ID
	}
	return ids
}

// An image that others were committed from is not deleted while they are there, by force either; it can lose its name, and
// then goes with the last of them. History and inspection lead from the one to the other.
func TestParents(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		ids := lineage(t, s)
		for i, ref := range []string{"base:1", "mid:1", "top:1"} {
			want := digest.Digest("")
			if i > 0 {
				want = ids[i-1]
			}
			if got := mustInspect(t, s, ref).Parent; got != want {
				t.Errorf("%s was made of %q, want %q", ref, got, want)
			}
		}
		h, err := s.History(t.Context(), "top:1", nil)
		if err != nil || len(h) != 3 || h[0].ID != ids[2].String() || h[1].ID != ids[1].String() || h[2].ID != ids[0].String() {
			t.Errorf("history %+v, %v", h, err)
		}
		remove := func(ref string, opt worker.RemoveOptions) string {
			t.Helper()
			out, err := s.Remove(t.Context(), ref, opt)
			if err != nil {
				if !errors.Is(err, worker.ErrInUse) {
					t.Fatal(err)
				}
				return err.Error()
			}
			return effects(out)
		}
		const want = " (cannot be forced) - image has dependent child images"
		for _, id := range ids[:2] {
			if got := remove(id.String(), worker.RemoveOptions{Force: true}); !strings.HasSuffix(got, want) {
				t.Errorf("removed %s: %s", id, got)
			}
		}
		if got, err := s.Remove(t.Context(), "mid:1", worker.RemoveOptions{}); err != nil || len(got) != 1 || got[0].Untagged != "mid:1" {
			t.Errorf("removed mid:1: %+v, %v", got, err)
		}
		rep, err := s.Prune(t.Context(), worker.PruneOptions{Images: true})
		if err != nil || len(rep.Images) != 0 {
			t.Errorf("pruned %+v, %v", rep.Images, err)
		}
		out, err := s.Remove(t.Context(), "top:1", worker.RemoveOptions{})
		if err != nil || len(out) != 3 || out[1].Deleted != ids[2].String() || out[2].Deleted != ids[1].String() {
			t.Errorf("removed top:1: %+v, %v", out, err)
		}
		if _, err := s.Inspect(t.Context(), "base:1", nil); err != nil {
			t.Error("what has a name went with its child")
		}
	})
}

// Of a line of images without a name all are pruned, and none that something else was committed from; noprune spares those
// that a removed one was committed from.
func TestPruneParents(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		ids := lineage(t, s)
		for _, ref := range []string{"base:1", "mid:1"} {
			if _, err := s.Remove(t.Context(), ref, worker.RemoveOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := s.Remove(t.Context(), "top:1", worker.RemoveOptions{NoPrune: true}); err != nil || len(out) != 2 {
			t.Fatalf("%+v, %v", out, err)
		}
		rep, err := s.Prune(t.Context(), worker.PruneOptions{Images: true})
		if err != nil || len(rep.Images) != 2 || rep.Images[0].Deleted != ids[1].String() || rep.Images[1].Deleted != ids[0].String() {
			t.Errorf("%+v, %v", rep.Images, err)
		}
	})
}
