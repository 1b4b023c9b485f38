package builder

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/treehash"
	"github.com/boxbuild/boxbuild/worker"
)

// slowImages resolves an image when its context ends, or at once if go is closed.
type slowImages struct {
	Images
	asked int
	open  chan struct{}
}

func (s *slowImages) Resolve(ctx context.Context, img *op.Image) (*op.Image, error) {
	s.asked++
	select {
	case <-s.open:
		out := *img
		out.Digest = "sha256:d"
		return &out, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func pinning(images Images) *env {
	return &env{b: &Builder{deps: Deps{Images: images}}, req: &worker.BuildRequest{}, em: &emitter{}}
}

// That who asked first gives up is no answer to whoever else asks: neither to one that waits, nor to one that comes later.
func TestPinGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		images := &slowImages{open: make(chan struct{})}
		e := pinning(images)
		img := &op.Image{Ref: "docker.io/library/a:1"}
		first, giveUp := context.WithCancel(t.Context())
		errs := make(chan error, 2)
		ask := func(ctx context.Context) {
			_, err := e.Pin(ctx, img)
			errs <- err
		}
		go ask(first)
		synctest.Wait()
		go ask(t.Context())
		synctest.Wait()
		giveUp()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up got %v", err)
		}
		synctest.Wait()
		close(images.open)
		if err := <-errs; err != nil {
			t.Errorf("who waited got %v", err)
		}
		if _, err := e.Pin(t.Context(), img); err != nil || images.asked != 2 {
			t.Errorf("who came later got %v, after %d questions, want 2", err, images.asked)
		}
	})
}

// Images that are known by one digest under two references, or of which different things are asked, are two questions.
func TestPinReferences(t *testing.T) {
	images := &slowImages{open: make(chan struct{})}
	close(images.open)
	e := pinning(images)
	for _, img := range []*op.Image{
		{Ref: "one.example/a:1", Digest: "sha256:d"},
		{Ref: "two.example/b:1", Digest: "sha256:d"},
		{Ref: "two.example/b:1", Digest: "sha256:d", Checksum: "sha256:c"},
	} {
		got, err := e.Pin(t.Context(), img)
		if pinned, ok := got.(*op.Image); err != nil || !ok || pinned.Ref != img.Ref || pinned.Checksum != img.Checksum {
			t.Errorf("%s with checksum %q is pinned to %v: %v", img, img.Checksum, got, err)
		}
	}
}

// A directory is the client's, and counts how often it was closed.
type directory struct{ closed int }

func (d *directory) Directory(context.Context, string) (filesync.Source, error) { return d, nil }

func (d *directory) Tree(context.Context, filesync.Selection) (treehash.Tree, error) {
	return nil, errors.New("this one is empty")
}

func (d *directory) Close() error {
	d.closed++
	return nil
}

// What is opened by a question that outlives the build is closed at once.
func TestPinAfterwards(t *testing.T) {
	dir := &directory{}
	e := pinning(nil)
	e.req.Sources = dir
	e.close()
	if _, err := e.Pin(t.Context(), &op.Local{Name: "context"}); err == nil || dir.closed != 1 {
		t.Errorf("the directory of a build that is over was closed %d times, want once: %v", dir.closed, err)
	}
	gone := false
	if e.atClose(func() { gone = true }); !gone {
		t.Error("what is to be given back at the end of a build that is over is kept")
	}
}
