package dockerfile

import (
	"errors"
	"testing"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
)

// TestMountErrors checks mounts that can never work, which BuildKit finds when it runs the step: they are errors of their
// line, also when a variable makes them wrong.
func TestMountErrors(t *testing.T) {
	for _, tt := range []struct{ mount, want string }{
		{"type=tmpfs,target=/t,source=/bin", `invalid source "/bin" of a tmpfs mount: it is empty at first, and has no /bin`},
		{"type=tmpfs,target=/t,source=$D", `invalid source "d/e" of a tmpfs mount: it is empty at first, and has no d/e`},
		{"type=tmpfs,target=/t,source=/", ""},
		{"type=tmpfs,target=/t,source=.", ""},
		{"type=secret,id=s,env=", `invalid mount of secret "s": env= names no variable`},
		{"type=secret,id=s,target=/s,env=", `invalid mount of secret "s": env= names no variable`},
		{"type=secret,id=s,env=S", ""},
	} {
		c := dockerfileCase(t, "FROM busybox\nARG D=d/e\nRUN --mount="+tt.mount+" x\n")
		_, err := c.translate()
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.mount, err)
			}
			continue
		}
		var se *frontend.SourceError
		if !errors.As(err, &se) || se.Err.Error() != tt.want || se.Ranges[0] != (solver.Range{Start: 3, End: 3}) {
			t.Errorf("%s: got %v, want %s", tt.mount, err, tt.want)
		}
	}
}
