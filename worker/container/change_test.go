package container

import (
	"context"
	"errors"
	"testing"

	"github.com/moby/moby/api/types/network"

	"github.com/boxbuild/boxbuild/worker"
)

// What a container wants of a network is stored for as long as there is the container: who came too late does not bring its
// record back, whose name would be taken for ever.
func TestEditEndpoint(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	id := f.create(request("sleep"))
	give := func(e *network.EndpointSettings, err error) func(*worker.NetworkRequest) (*network.EndpointSettings, error) {
		return func(r *worker.NetworkRequest) (*network.EndpointSettings, error) {
			if r.ID != id {
				t.Errorf("asked for %s, want %s", r.ID, id)
			}
			return e, err
		}
	}
	wants := func() bool {
		c, err := f.find(id)
		f.must(err)
		return c.get().Endpoints["app"] != nil
	}
	e := &network.EndpointSettings{Aliases: []string{"a"}}
	for _, c := range []struct {
		give *network.EndpointSettings
		err  error
		want bool
	}{{e, errors.New("no"), false}, {e, nil, true}, {nil, errors.New("no"), true}, {nil, nil, false}} {
		if err := f.EditEndpoint(ctx, id[:12], "app", give(c.give, c.err)); !errors.Is(err, c.err) {
			t.Errorf("got %v, want %v", err, c.err)
		}
		if wants() != c.want {
			t.Errorf("%v, %v: it is stored: %v", c.give, c.err, !c.want)
		}
	}
	late, err := f.find(id)
	f.must(err)
	f.must(f.Remove(ctx, id, worker.RemoveContainerOptions{}))
	f.want(late.editEndpoint(ctx, "app", give(e, nil)), "No such container")
	f.restart()
	f.want(second(f.Inspect(ctx, id, false)), "No such container")
}
