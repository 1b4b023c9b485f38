package buildkit

import (
	"strings"
	"testing"
)

// TestInsecure checks that a command with security=insecure has all capabilities whoever its user is, and what it starts as
// well, as with BuildKit; and that another has none as an ordinary user.
func TestInsecure(t *testing.T) {
	d := start(t, "--allow-insecure-entitlement", "security.insecure")
	d.load()
	opt := opts(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --security=insecure grep Cap /proc/self/status # root\n" +
		"USER 1000\nRUN --security=insecure grep Cap /proc/self/status # user\nRUN grep Cap /proc/self/status # plain\n"})
	opt.AllowedEntitlements = []string{"security.insecure"}
	_, p := d.must(opt)
	sets := func(marker string) map[string]string {
		out := map[string]string{}
		for name, text := range p.logs {
			if !strings.Contains(name, marker) {
				continue
			}
			for line := range strings.Lines(text) {
				k, v, _ := strings.Cut(line, ":")
				out[k] = strings.TrimSpace(v)
			}
		}
		return out
	}
	root, user, plain := sets("# root"), sets("# user"), sets("# plain")
	all := root["CapBnd"]
	if len(all) != 16 || all == plain["CapBnd"] {
		t.Errorf("root's are %v", root)
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if root[set] != all || user[set] != all {
			t.Errorf("%s: root's are %q, the user's %q, want %q", set, root[set], user[set], all)
		}
		if set != "CapBnd" && plain[set] != "0000000000000000" {
			t.Errorf("%s: without it the user's are %q", set, plain[set])
		}
	}
}
