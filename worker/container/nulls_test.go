package container

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
)

// What clients look into without asking is never null: the labels of a container without any, and the log of checks before
// the first one.
func TestNoNulls(t *testing.T) {
	f := newFixture(t)
	req := request("sleep")
	req.Labels, req.Healthcheck = nil, &container.HealthConfig{Test: []string{"CMD", "true"}}
	id := f.run(req)
	got, err := f.Inspect(t.Context(), id, false)
	f.must(err)
	b, err := json.Marshal(got)
	f.must(err)
	for _, part := range []string{`"Labels":{}`, `"Health":{"Status":"starting","FailingStreak":0,"Log":[]}`} {
		if !strings.Contains(string(b), part) {
			t.Errorf("%s is missing in %s", part, b)
		}
	}
}
