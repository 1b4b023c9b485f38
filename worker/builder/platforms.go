package builder

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// otherPlatforms warns, in BuildKit's words, that a result is not for the platforms which were asked for, or that these cannot
// be told apart. A frontend need not heed them. What nobody asked for is right.
func otherPlatforms(asked []string, out *frontend.Output) []solver.Warning {
	var warnings []solver.Warning
	warn := func(format string, args ...any) {
		warnings = append(warnings, solver.Warning{Short: fmt.Sprintf(format, args...)})
	}
	var want []string
	for _, name := range asked {
		p, err := platforms.Parse(name)
		if err != nil {
			warn("Invalid platform result requested %q: %v", name, err)
			continue
		}
		id := platformID(p)
		if slices.Contains(want, id) {
			warn("Duplicate platform result requested %q", name)
			continue
		}
		want = append(want, id)
	}
	if len(warnings) > 0 || len(want) == 0 {
		return warnings
	}
	var have []string
	for i := range out.Images {
		have = append(have, platformID(out.Images[i].Platform))
	}
	slices.Sort(want)
	slices.Sort(have)
	switch {
	case len(want) == 1 && len(have) == 1:
		if want[0] != have[0] && want[0] != platformID(anyVersion(out.Images[0].Platform)) {
			warn("Requested platform %q does not match result platform %q", asked[0], have[0])
		}
	case !out.Multi && len(want) > 1:
		warn("Multiple platforms requested but result is not multi-platform")
	case !slices.Equal(want, have):
		warn("Requested platforms %s do not match result platforms %s", strings.Join(want, ","), strings.Join(have, ","))
	}
	return warnings
}

// anyVersion is a platform without the version of its system, which is the base image's to say.
func anyVersion(p op.Platform) op.Platform {
	p.OSVersion = ""
	return p
}
