package attrs

import (
	"strings"

	"github.com/moby/buildkit/solver/errdefs"

	"github.com/boxbuild/boxbuild/frontend"
)

// caps are the capabilities of the frontend that a client may insist on.
var caps = map[string]bool{
	"moby.buildkit.frontend.inputs":         true,
	"moby.buildkit.frontend.subrequests":    true,
	"moby.buildkit.frontend.contexts":       true,
	"moby.buildkit.frontend.gitquerystring": true,
}

// checkCaps refuses the first capability that the frontend has not. One that is marked "+forward" is only needed by the
// frontend that the Dockerfile names; that one sees the attribute, too.
func checkCaps(v string) error {
	if v == "" {
		return nil
	}
	for c := range strings.SplitSeq(v, ",") {
		name, mark, _ := strings.Cut(c, "+")
		if !caps[name] && !strings.Contains(mark, "forward") {
			return errdefs.NewUnsupportedFrontendCapError(name)
		}
	}
	return nil
}

// describe is the subrequest for the list of subrequests.
const describe = "frontend.subrequests.describe"

// calls are the subrequests.
var calls = map[string]frontend.Call{
	"frontend.outline": frontend.Outline,
	"frontend.targets": frontend.Targets,
	"frontend.lint":    frontend.Check,
}

func (b *Build) readCall(in map[string]string) error {
	id, ok := in["requestid"]
	if !ok {
		return nil
	}
	if id == describe {
		b.Describe = true
		return nil
	}
	if b.Call, ok = calls[id]; !ok {
		return errdefs.NewUnsupportedSubrequestError(id)
	}
	return nil
}
