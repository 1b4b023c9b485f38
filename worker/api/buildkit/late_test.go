package buildkit

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/boxbuild/boxbuild/proto/bksession"
)

// TestLateSession checks that a session which never comes holds nothing up for more than a moment that needs nothing of it,
// and what does for as long as BuildKit's daemon would, once.
func TestLateSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := late("nobody", bksession.New(bksession.Options{}))
		ctx, cancel := l.bind(t.Context())
		defer cancel()
		resource, err := name.NewRegistry("registry.test")
		if err != nil {
			t.Fatal(err)
		}
		begin, k := time.Now(), &lateKeychain{l}
		for range 2 {
			if k.Come(ctx) {
				t.Error("it has come")
			}
			if took := time.Since(begin); took != time.Second {
				t.Errorf("that was known after %s", took)
			}
		}
		for range 2 {
			_, err := k.ResolveContext(ctx, resource)
			if took := time.Since(begin); !errors.Is(err, bksession.ErrNoSession) || took != 5*time.Second {
				t.Errorf("got %v after %s", err, took)
			}
		}
		if !k.Come(ctx) || ctx.Err() != nil {
			t.Errorf("it is not known to be missing, or ends the build: %v", ctx.Err())
		}
	})
}
