package buildkit

import (
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"

	"github.com/boxbuild/boxbuild/worker"
)

// An output gets the build's SOURCE_DATE_EPOCH if that is a time, or the word that there is none. What names something that
// has a time is for the frontend to look up: the output then gets the time with the image.
func TestEpochOfOutputs(t *testing.T) {
	for _, tc := range []struct {
		name      string
		arg, attr string
		want      string
		set       bool
	}{
		{name: "a time", arg: "1700000601", want: "1700000601", set: true},
		{name: "before 1970", arg: "-1", want: "-1", set: true},
		{name: "none", arg: "", want: "", set: true},
		{name: "the context", arg: "context"},
		{name: "a stage", arg: "base"},
		{name: "no whole number", arg: "1.5"},
		{name: "the output's own", arg: "1700000601", attr: "5", want: "5", set: true},
		{name: "the output's own beside a name", arg: "context", attr: "5", want: "5", set: true},
	} {
		attrs := map[string]string{}
		if tc.attr != "" {
			attrs["source-date-epoch"] = tc.attr
		}
		b := &build{in: &controlapi.SolveRequest{
			FrontendAttrs: map[string]string{"build-arg:SOURCE_DATE_EPOCH": tc.arg},
			Exporters:     []*controlapi.Exporter{{Type: "image", Attrs: attrs}},
		}}
		out, err := b.outputs(t.Context(), &worker.BuildRequest{})
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if got, set := out[0].Attrs["source-date-epoch"]; got != tc.want || set != tc.set {
			t.Errorf("%s: got %q, %v", tc.name, got, set)
		}
	}
}
