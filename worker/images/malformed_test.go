package images

import (
	"io"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/boxbuild/boxbuild/worker"
)

// A name that cannot be one is the client's mistake, wherever it is given.
func TestMalformedNames(t *testing.T) {
	eachService(t, func(t *testing.T, s *Service) {
		importFile(t, s, "a:1", "f", "hello")
		ctx := t.Context()
		for _, ref := range []string{"BAD", "a:b:c", "nosuch@sha256:12", "a b"} {
			inspect := func() error { _, err := s.Inspect(ctx, ref, nil); return err }
			history := func() error { _, err := s.History(ctx, ref, nil); return err }
			save := func() error { return s.Save(ctx, []string{ref}, nil, io.Discard) }
			remove := func() error { _, err := s.Remove(ctx, ref, worker.RemoveOptions{}); return err }
			from := func() error { return s.Tag(ctx, ref, "x") }
			to := func() error { return s.Tag(ctx, "a:1", ref) }
			for what, f := range map[string]func() error{
				"inspect": inspect, "history": history, "save": save, "remove": remove, "tag from": from, "tag to": to,
			} {
				if err := f(); !errdefs.IsInvalidArgument(err) {
					t.Errorf("%s %s: got %v, want an invalid argument", what, ref, err)
				}
			}
		}
	})
}
