package builder_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/worker"
)

// plainWithout is a Dockerfile that needs no context.
const plainWithout = "FROM HOST/base\nSHELL [\"/sh\", \"-c\"]\nRUN write out hello\n"

func digestOf(raw []byte) string { return string(digest.FromBytes(raw)) }

// asking is a request whose tags mean what their registries say, and whose result goes nowhere.
func asking(req *worker.BuildRequest) {
	req.AskRegistries, req.Tags = true, nil
	req.Outputs = []worker.Output{{Type: worker.OutputNone}}
}

// shown is the base image of a build as its step is called.
func shown(rec *record) string {
	for name := range rec.states {
		if _, ref, ok := strings.Cut(name, "FROM "); ok {
			return ref
		}
	}
	return ""
}

// TestAskRegistries checks that a tag which has moved on is seen, that nothing but a question is asked if it has not, and
// that what was pulled is no image of the store: pruning the cache removes all of it.
func TestAskRegistries(t *testing.T) {
	r := newRig(t)
	text := plainWithout
	first := r.multi("base", "old")
	_, rec, err := r.build(text, asking)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := shown(rec), r.name("base")+"@"+digestOf(first); got != want {
		t.Errorf("the base image is shown as %s, want its index: %s", got, want)
	}
	r.registry.Forget()
	if _, _, err = r.build(text, asking); err != nil || len(r.exec.Started()) != 1 {
		t.Errorf("the same again ran %d processes in all, want 1: %v", len(r.exec.Started()), err)
	}
	if n, heads := len(r.registry.Requests()), r.registry.Count(http.MethodHead, registrytest.Manifest); n != 1 || heads != 1 {
		t.Errorf("%d questions for a tag that has not moved, %d of them HEAD; want one: %v", n, heads, r.registry.Requests())
	}
	second := r.multi("base", "new")
	if _, rec, err = r.build(text, asking); err != nil || len(r.exec.Started()) != 2 {
		t.Errorf("%d processes after the tag moved, want 2: %v", len(r.exec.Started()), err)
	}
	if got, want := shown(rec), r.name("base")+"@"+digestOf(second); got != want {
		t.Errorf("the base image is shown as %s, want %s", got, want)
	}
	if list, err := r.store.List(); err != nil || len(list) != 0 {
		t.Errorf("the store has %d images, %v", len(list), err)
	}
	if _, err := r.images.Prune(t.Context(), worker.PruneOptions{Cache: true, All: true}); err != nil {
		t.Fatal(err)
	}
	if du, err := r.images.DiskUsage(t.Context()); err != nil || du.Total != 0 {
		t.Errorf("%d bytes are left, %v", du.Total, err)
	}
	if _, _, err = r.build(text, asking); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// TestAskAboutOwnNames checks that a name which was given here means what it was given to, whatever a registry says, and
// that one which a registry has had is asked for there, unless none answers.
func TestAskAboutOwnNames(t *testing.T) {
	r := newRig(t)
	r.base("base")
	own := func(req *worker.BuildRequest) { req.Tags = []string{r.name("own")} }
	if _, _, err := r.build(plainWithout, own); err != nil {
		t.Fatal(err)
	}
	r.registry.Forget()
	if _, _, err := r.build("FROM HOST/own\n", asking); err != nil {
		t.Errorf("what was built here: %v", err)
	}
	if n := len(r.registry.Requests()); n != 0 {
		t.Errorf("%d questions for a name that was given here, want none", n)
	}
	if _, err := r.pull("base"); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		fault registrytest.Fault
		fails bool
	}{
		"drops":   {registrytest.Fault{Drop: true}, false},
		"is down": {registrytest.Fault{Status: http.StatusServiceUnavailable}, false},
		"refuses": {registrytest.Fault{Status: http.StatusForbidden}, true},
		"has not": {registrytest.Fault{Status: http.StatusNotFound}, true},
	} {
		r.registry.Heal()
		r.registry.Fail(tc.fault)
		if _, _, err := r.build("FROM HOST/base\n", asking); (err != nil) != tc.fails {
			t.Errorf("a registry that %s: %v", name, err)
		}
	}
	r.registry.Heal()
	moved := layer(t, "sh", "another shell")
	r.registry.PutImage("base", "latest", config(t, moved), moved)
	res, _, err := r.build("FROM HOST/base\n", asking, func(req *worker.BuildRequest) {
		req.Tags, req.Outputs = []string{"made:1"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	kept, err := r.store.Get(r.name("base"), nil)
	if err != nil || kept.ID == res.Images[0].ID {
		t.Errorf("a build has moved the user's name, %v", err)
	}
	if _, err := r.store.Get("docker.io/library/made:1", nil); errors.Is(err, image.ErrNotFound) {
		t.Error("a name that was asked for was not given")
	}
}

// TestAskModes checks what the modes of a client's request mean for a tag that the store has from a registry and that has
// moved there since, and for one that no registry has any more: BuildKit's default, pull and local. None names an image.
func TestAskModes(t *testing.T) {
	r := newRig(t)
	r.multi("moved", "old")
	if _, err := r.pull("moved"); err != nil {
		t.Fatal(err)
	}
	kept, err := r.store.Get(r.name("moved"), nil)
	if err != nil {
		t.Fatal(err)
	}
	own := func(req *worker.BuildRequest) { req.Tags = []string{r.name("own")} }
	if _, _, err := r.build("FROM HOST/moved\nSHELL [\"/sh\", \"-c\"]\nRUN write out own\n", own); err != nil {
		t.Fatal(err)
	}
	fresh := layer(t, "sh", "another shell")
	moved := r.multi("moved", "new")
	r.registry.PutImage("new", "latest", config(t, fresh), fresh)
	for name, c := range map[string]struct {
		set   func(*worker.BuildRequest)
		moves bool // to what the registry has
		own   bool // what only the store has is found
	}{
		"default": {func(*worker.BuildRequest) {}, true, true},
		"pull":    {func(req *worker.BuildRequest) { req.Frontend.Pull = true }, true, false},
		"local":   {func(req *worker.BuildRequest) { req.Frontend.PreferLocal = true }, false, true},
	} {
		_, rec, err := r.build("FROM HOST/moved\nSHELL [\"/sh\", \"-c\"]\nRUN write out hello\n", asking, c.set)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := shown(rec); strings.HasSuffix(got, "@"+digestOf(moved)) != c.moves {
			t.Errorf("%s: the image is %s, the registry's %s", name, got, digestOf(moved))
		}
		if _, _, err := r.build("FROM HOST/own\n", asking, c.set); (err == nil) != c.own {
			t.Errorf("%s: what only the store has: %v", name, err)
		}
		if _, _, err := r.build("FROM HOST/new\n", asking, c.set); err != nil {
			t.Errorf("%s: what only the registry has: %v", name, err)
		}
		if _, err := r.store.Name(r.name("new")); err == nil {
			t.Errorf("%s: what was pulled has a name", name)
		}
		if now, err := r.store.Get(r.name("moved"), nil); err != nil || now.ID != kept.ID {
			t.Errorf("%s: the name in the store has moved, %v", name, err)
		}
	}
}
