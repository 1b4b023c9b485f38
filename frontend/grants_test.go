package frontend_test

import (
	"errors"
	"maps"
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
)

// TestParseGrants checks what each entitlement grants, and the words, BuildKit's, for what is none.
func TestParseGrants(t *testing.T) {
	for _, tc := range []struct {
		list []string
		want frontend.Grants
		err  string
	}{
		{nil, frontend.Grants{}, ""},
		{[]string{"network.host"}, frontend.Grants{NetworkHost: true}, ""},
		{[]string{"security.insecure", "security.insecure"}, frontend.Grants{Insecure: true}, ""},
		{[]string{"device"}, frontend.Grants{Device: true, AllDevices: true}, ""},
		{[]string{"device="}, frontend.Grants{Device: true, AllDevices: true}, ""},
		{[]string{"device=v/c=one"}, frontend.Grants{Device: true, Devices: map[string]string{"v/c=one": ""}}, ""},
		{
			[]string{"device=v/c=one,alias=mine", "device=v/c"},
			frontend.Grants{Device: true, Devices: map[string]string{"mine": "v/c=one", "v/c": ""}},
			"",
		},
		{[]string{"network"}, frontend.Grants{}, "unknown entitlement network"},
		{[]string{"network.host "}, frontend.Grants{}, "unknown entitlement network.host "},
		{[]string{"network.host=1"}, frontend.Grants{}, "unknown entitlement network.host=1"},
		{[]string{"NETWORK.HOST"}, frontend.Grants{}, "unknown entitlement NETWORK.HOST"},
		{[]string{""}, frontend.Grants{}, "unknown entitlement "},
		{[]string{"devices"}, frontend.Grants{}, "unknown entitlement devices"},
		{[]string{"device=a,b"}, frontend.Grants{}, `invalid device config "b"`},
		{[]string{"device=a,b=c"}, frontend.Grants{}, `unknown device config key "b"`},
	} {
		got, err := frontend.ParseGrants(tc.list)
		if tc.err != "" {
			var usage *frontend.UsageError
			if !errors.As(err, &usage) || err.Error() != tc.err {
				t.Errorf("%q: got %v, want %s", tc.list, err, tc.err)
			}
			continue
		}
		if err != nil || got.NetworkHost != tc.want.NetworkHost || got.Insecure != tc.want.Insecure || got.Device != tc.want.Device ||
			got.AllDevices != tc.want.AllDevices || !maps.Equal(got.Devices, tc.want.Devices) {
			t.Errorf("%q grants %+v, %v, want %+v", tc.list, got, err, tc.want)
		}
	}
}

// TestWithin checks that no set of entitlements is within one that lacks any of them, in whatever order and number they are
// written: what is refused is any superset, and nothing else (CVE-2026-33997).
func TestWithin(t *testing.T) {
	all := []string{"network.host", "security.insecure", "device"}
	subset := func(bits int) (out []string) {
		for i, e := range all {
			if bits&(1<<i) != 0 {
				out = append(out, e)
			}
		}
		return out
	}
	for asked := range 1 << len(all) {
		for allowed := range 1 << len(all) {
			a, b := subset(asked), subset(allowed)
			for range len(a) + 1 { // rotated, and with the last one twice
				asks, err := frontend.ParseGrants(append(a[:len(a):len(a)], a[max(0, len(a)-1):]...))
				if err != nil {
					t.Fatal(err)
				}
				has, err := frontend.ParseGrants(b)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := asks.Within(has) == nil, asked&^allowed == 0; got != want {
					t.Errorf("%q within %q is %v", a, b, got)
				}
				if len(a) > 0 {
					a = append(a[1:len(a):len(a)], a[0])
				}
			}
		}
	}
	asks, err := frontend.ParseGrants([]string{"device=v/c=one"})
	if err != nil {
		t.Fatal(err)
	}
	want := "granting entitlement device is not allowed by build daemon configuration"
	if err := asks.Within(new(frontend.Grants)); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestTargets checks that an image without files is no target.
func TestTargets(t *testing.T) {
	out := &frontend.Output{Images: make([]frontend.Image, 2)}
	if got := out.Targets(); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}
