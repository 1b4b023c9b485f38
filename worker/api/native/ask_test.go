package native

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// Whoever waits for credentials that another step has asked for gets them also if that step is cancelled meanwhile.
func TestKeychainLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(chan *boxbuildv1.Ask, 2)
		a := &asker{send: func(q *boxbuildv1.Ask) error { asked <- q; return nil }}
		k := newKeychain(a)
		repo, err := name.NewRepository("registry.example/app")
		if err != nil {
			t.Fatal(err)
		}
		first, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := k.ResolveContext(first, repo)
			failed <- err
		}()
		<-asked
		user := make(chan string, 1)
		go func() {
			auth, err := k.ResolveContext(t.Context(), repo)
			if err != nil {
				user <- err.Error()
				return
			}
			c, err := auth.Authorization()
			if err != nil {
				t.Error(err)
			}
			user <- c.Username
		}()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("the first one got %v", err)
		}
		synctest.Wait()
		select {
		case got := <-user:
			t.Fatalf("got %q before the client was asked again", got)
		case q := <-asked:
			a.answer(&boxbuildv1.Answer{Id: q.GetId(), Answer: &boxbuildv1.Answer_Credentials{
				Credentials: &boxbuildv1.Credentials{Username: "anna"},
			}})
		}
		if got := <-user; got != "anna" {
			t.Errorf("the second one got %q", got)
		}
	})
}
