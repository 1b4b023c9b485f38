package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"

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
				Edit: func(c *frontend.ImageConfig) error { return s.ApplyChange(c, "ENV A=b") },
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
