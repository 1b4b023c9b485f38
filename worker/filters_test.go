package worker

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// Both forms that clients write mean the same, and what is neither is a bad request.
func TestParseFilters(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Filters
		bad  bool
	}{
		{in: "", want: nil},
		{in: "{}", want: Filters{}},
		{in: `{"label":["a","b=c"]}`, want: Filters{"label": {"a", "b=c"}}},
		{in: `{"label":{"b=c":true,"a":true,"d":false}}`, want: Filters{"label": {"a", "b=c"}}},
		{in: `{"label":"a"}`, bad: true},
		{in: `["a"]`, bad: true},
		{in: `{`, bad: true},
	} {
		got, err := ParseFilters(tt.in)
		if tt.bad != errdefs.IsInvalidArgument(err) || !tt.bad && err != nil {
			t.Errorf("%s: error %v", tt.in, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.in, diff)
		}
	}
}

func TestFilters(t *testing.T) {
	labels := map[string]string{"a": "1", "b": ""}
	for _, tt := range []struct {
		name string
		got  bool
		want bool
	}{
		{"nothing asked", Filters{}.Labels(labels), true},
		{"there", Filters{"label": {"a"}}.Labels(labels), true},
		{"with its value", Filters{"label": {"a=1", "b="}}.Labels(labels), true},
		{"with another", Filters{"label": {"a=2"}}.Labels(labels), false},
		{"all of them", Filters{"label": {"a", "c"}}.Labels(labels), false},
		{"without", Filters{"label!": {"c"}}.Labels(labels), true},
		{"without one that is there", Filters{"label!": {"c", "a=1"}}.Labels(labels), false},
		{"one of", Filters{"k": {"x", "y"}}.Match("k", "y"), true},
		{"none of", Filters{"k": {"x"}}.Match("k", "xy"), false},
		{"part", Filters{"k": {"x"}}.Contains("k", "axb"), true},
		{"no part", Filters{"k": {"x"}}.Contains("k", "ab"), false},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %v", tt.name, tt.got)
		}
	}
	if err := (Filters{"a": nil, "b": nil}).Check("a"); err == nil || err.Error() != "invalid filter 'b'" {
		t.Errorf("an unknown key: %v", err)
	}
}
