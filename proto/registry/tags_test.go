package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// A list of tags is whole however many pages it comes in, sorted, and of that repository alone.
func TestTags(t *testing.T) {
	for _, page := range []int{0, 1, 2, 3, 100} {
		t.Run(fmt.Sprint(page), func(t *testing.T) {
			setUp := func(w *world) { w.reg.Behaviour = registrytest.Behaviour{TagPage: page} }
			inWorld(t, setUp, func(ctx context.Context, w *world) {
				for _, tag := range []string{"b", "a", "1.0", "c", "latest", "d"} {
					w.reg.PutImage("team/app", tag, []byte("{}"))
				}
				w.reg.PutImage("team/other", "x", []byte("{}"))
				got, err := w.c.Tags(ctx, repoAt(testHost))
				if want := []string{"1.0", "a", "b", "c", "d", "latest"}; err != nil || !slices.Equal(got, want) {
					t.Errorf("got %v, %v, want %v", got, err, want)
				}
			})
		})
	}
}

// What a registry refuses is what Tags says, and an odd answer is an error.
func TestTagsRefused(t *testing.T) {
	for _, tt := range []struct {
		fault registrytest.Fault
		want  error
	}{
		{registrytest.Fault{Status: 404, Code: "NAME_UNKNOWN"}, ErrNotFound},
		{registrytest.Fault{Status: 401}, ErrUnauthorized},
		{registrytest.Fault{Corrupt: true}, nil},
	} {
		inWorld(t, nil, func(ctx context.Context, w *world) {
			w.reg.PutImage("team/app", "1", []byte("{}"))
			w.reg.Fail(tt.fault)
			if got, err := w.c.Tags(ctx, repoAt(testHost)); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%+v: got %v, %v", tt.fault, got, err)
			}
		})
	}
}

// A Link header gives where the list goes on, and nothing of where to ask.
func TestNextPage(t *testing.T) {
	for link, want := range map[string]string{
		"": "", "</v2/a/tags/list?last=x&n=2>; rel=\"next\"": "last=x&n=2",
		"<https://evil.example/v2/b?last=y>; rel=next": "last=y", "</v2/a/tags/list?n=2>; rel=\"next\"": "",
		"</v2/a/tags/list?last=x>; rel=\"prev\"": "", "<%zz>; rel=\"next\"": "", "garbage": "",
	} {
		if got := nextPage(link).Encode(); got != want {
			t.Errorf("%q: got %q, want %q", link, got, want)
		}
	}
}
