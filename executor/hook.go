package executor

import "time"

// A HookStage is a point in the life of a sandbox at which programs are run ("POSIX-platform Hooks" of the OCI runtime
// specification).
type HookStage string

// The stages, in order. The failure of a hook ends the sandbox, except after its end.
const (
	Prestart        HookStage = "prestart"        // the root has its mounts; in the host's namespaces
	CreateRuntime   HookStage = "createRuntime"   // after Prestart, and as that
	CreateContainer HookStage = "createContainer" // then, in the sandbox's namespaces, with the host's files beside the root
	StartContainer  HookStage = "startContainer"  // before the command, by the sandbox's own programs, with its rights
	Poststart       HookStage = "poststart"       // when the command runs; in the host's namespaces
	Poststop        HookStage = "poststop"        // when all has ended; in the host's namespaces
)

// HookStages are all stages, in order.
func HookStages() []HookStage {
	return []HookStage{Prestart, CreateRuntime, CreateContainer, StartContainer, Poststart, Poststop}
}

// A Hook is a program that is run for a sandbox. It reads the sandbox's state on its standard input.
type Hook struct {
	Stage   HookStage
	Path    string        // absolute: on the host, of StartContainer in the sandbox
	Args    []string      // with the program's name in front, which for StartContainer is Path whatever it says; nil for that alone
	Env     []string      // all there is, but for a PATH where it has none: neither the daemon's nor the sandbox's is inherited
	Timeout time.Duration // after which it is killed, and has failed; 0 for none
}

// HooksOf returns those of list that belong to a stage.
func HooksOf(list []Hook, stage HookStage) []Hook {
	var out []Hook
	for _, h := range list {
		if h.Stage == stage {
			out = append(out, h)
		}
	}
	return out
}
