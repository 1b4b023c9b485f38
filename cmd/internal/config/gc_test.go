package config

import (
	"slices"
	"testing"
	"time"
)

// Space is bytes, in units of 1024 as buildkitd has them, or a part of the disk.
func TestSpace(t *testing.T) {
	for text, want := range map[string]int64{
		"1000": 1000, "1GB": 1 << 30, "1GiB": 1 << 30, "512MB": 512 << 20, "20%": 200, "0": 0, "100%": 1000,
	} {
		var s Space
		if err := s.UnmarshalText([]byte(text)); err != nil || s.Of(1000) != want {
			t.Errorf("%s: got %d, %v, want %d", text, s.Of(1000), err, want)
		}
	}
	for _, text := range []string{"", "x", "101%", "-1%", "%", "1.5%"} {
		var s Space
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: got %+v, want an error", text, s)
		}
	}
}

// The rules are those of the file; else the usual ones within its limits, or those that are derived from the disk.
func TestGCRules(t *testing.T) {
	const disk = 1000e9
	d, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	rules := d.GCRules(disk)
	if len(rules) != 4 || rules[2].MaxUsedSpace.Of(disk) != 100e9 || rules[2].ReservedSpace.Of(disk) != 10e9 ||
		rules[2].MinFreeSpace.Of(disk) != 200e9 || !rules[3].All || rules[1].KeepDuration.std() != 60*24*time.Hour {
		t.Errorf("by default: %+v", rules)
	}
	if small := d.GCRules(50e9); small[2].MaxUsedSpace.Of(50e9) != 40e9 || small[2].ReservedSpace.Of(50e9) != 5e9 {
		t.Errorf("on a small disk: %+v", small)
	}
	for _, c := range []struct {
		name, text string
		args       []string
		want       []GCRule // of the last ones
	}{
		{
			"own words", "[gc]\nmax-used = \"5GB\"\nkeep-for = \"1h\"\n", nil,
			[]GCRule{{All: true, KeepDuration: Duration(time.Hour), ReservedSpace: Space{Bytes: 5e9}, MaxUsedSpace: Space{Bytes: 5e9}, MinFreeSpace: Space{Percent: 20}}},
		},
		{
			"limits", "[worker.oci]\nreservedSpace = \"10%\"\nmaxUsedSpace = 7\n", nil,
			[]GCRule{{All: true, ReservedSpace: Space{Percent: 10}, MaxUsedSpace: Space{Bytes: 7}}},
		},
		{
			"flag", "",
			[]string{"--oci-worker-gc-keepstorage", "1,2GB,30%"},
			[]GCRule{{All: true, ReservedSpace: Space{Bytes: 1e6}, MinFreeSpace: Space{Bytes: 2 << 30}, MaxUsedSpace: Space{Percent: 30}}},
		},
		{
			"rules", "[[worker.oci.gcpolicy]]\nkeepBytes = 5\nfilters = [\"type==regular\"]\nkeepDuration = 60\n[[worker.oci.gcpolicy]]\nall = true\n", nil,
			[]GCRule{{Filters: []string{"type==regular"}, KeepDuration: Duration(time.Minute), KeepBytes: Space{Bytes: 5}, ReservedSpace: Space{Bytes: 5}}, {All: true}},
		},
		{"off", "[worker.oci]\ngc = false\n[[worker.oci.gcpolicy]]\nall = true\n", nil, nil},
		{"off by flag", "", []string{"--oci-worker-gc=false"}, nil},
	} {
		d, err := load(t, c.text, c.args...)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := d.GCRules(disk)
		if c.want == nil != (got == nil) || len(got) < len(c.want) || !slices.EqualFunc(got[len(got)-len(c.want):], c.want, equalRule) {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func equalRule(a, b GCRule) bool {
	return a.All == b.All && slices.Equal(a.Filters, b.Filters) && a.KeepDuration == b.KeepDuration &&
		a.ReservedSpace == b.ReservedSpace && a.MaxUsedSpace == b.MaxUsedSpace && a.MinFreeSpace == b.MinFreeSpace
}
