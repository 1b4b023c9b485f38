package sandbox

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/executor"
)

func validateHooks(list []executor.Hook) error {
	for i := range list {
		h := &list[i]
		switch {
		case !slices.Contains(executor.HookStages(), h.Stage):
			return fmt.Errorf("hook %s: unknown stage %q", h.Path, h.Stage)
		case !path.IsAbs(h.Path):
			return fmt.Errorf("%s hook %q: not an absolute path", h.Stage, h.Path)
		case h.Timeout < 0:
			return fmt.Errorf("%s hook %s: timeout %v is negative", h.Stage, h.Path, h.Timeout)
		}
		for _, s := range slices.Concat([]string{h.Path}, h.Args, h.Env) {
			if strings.Contains(s, "\x00") {
				return fmt.Errorf("%s hook %s: %q contains a NUL byte", h.Stage, h.Path, s)
			}
		}
	}
	return nil
}
