package runspec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"
)

// security is what separates the container from the host.
type security struct {
	capAdd, capDrop, options        opts.ListOpts
	privileged                      bool
	pid, ipc, uts, userns, cgroupns string
	sysctls                         *opts.MapOpts
}

func (s *security) register(fs *pflag.FlagSet) {
	s.capAdd, s.capDrop, s.options = opts.NewListOpts(nil), opts.NewListOpts(nil), opts.NewListOpts(nil)
	s.sysctls = opts.NewMapOpts(nil, opts.ValidateSysctl)
	fs.Var(&s.capAdd, "cap-add", "Add Linux capabilities")
	fs.Var(&s.capDrop, "cap-drop", "Drop Linux capabilities")
	fs.Var(&s.options, "security-opt", "Security Options")
	fs.BoolVar(&s.privileged, "privileged", false, "Give extended privileges to this container")
	fs.StringVar(&s.pid, "pid", "", "PID namespace to use")
	fs.StringVar(&s.ipc, "ipc", "", "IPC mode to use")
	fs.StringVar(&s.uts, "uts", "", "UTS namespace to use")
	fs.StringVar(&s.userns, "userns", "", "User namespace to use")
	fs.StringVar(&s.cgroupns, "cgroupns", "", `Cgroup namespace to use (host|private)
'host':    Run the container in the Docker host's cgroup namespace
'private': Run the container in its own private cgroup namespace
'':        Use the cgroup namespace as configured by the
           default-cgroupns-mode option on the daemon (default)`)
	fs.Var(s.sysctls, "sysctl", "Sysctl options")
}

func (s *security) apply(req *container.CreateRequest, _ *pflag.FlagSet) error {
	h := req.HostConfig
	h.PidMode, h.IpcMode, h.UTSMode = container.PidMode(s.pid), container.IpcMode(s.ipc), container.UTSMode(s.uts)
	h.UsernsMode, h.CgroupnsMode = container.UsernsMode(s.userns), container.CgroupnsMode(s.cgroupns)
	switch {
	case !h.PidMode.Valid():
		return fmt.Errorf("--pid: invalid PID mode")
	case !h.UTSMode.Valid():
		return fmt.Errorf("--uts: invalid UTS mode")
	case !h.UsernsMode.Valid():
		return fmt.Errorf("--userns: invalid USER mode")
	case !h.CgroupnsMode.Valid():
		return fmt.Errorf("--cgroupns: invalid CGROUP mode")
	}
	h.CapAdd, h.CapDrop, h.Privileged, h.Sysctls = s.capAdd.GetSlice(), s.capDrop.GetSlice(), s.privileged, s.sysctls.GetAll()
	h.SecurityOpt = []string{}
	for _, o := range s.options.GetSlice() {
		if o == "systempaths=unconfined" {
			// It is not an option to the daemon: no path is masked, and none is read-only.
			h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{}
			continue
		}
		o, err := securityOption(o)
		if err != nil {
			return err
		}
		h.SecurityOpt = append(h.SecurityOpt, o)
	}
	return nil
}

// securityOption validates a value of --security-opt. Of a seccomp profile in a file it makes the content: the daemon need
// not have the file, and may not trust its name.
func securityOption(o string) (string, error) {
	key, value, ok := strings.Cut(o, "=")
	if key == "no-new-privileges" {
		return o, nil
	}
	if !ok {
		key, value, ok = strings.Cut(o, ":") // as it was before docker 1.11
	}
	if !ok || value == "" {
		return "", fmt.Errorf("invalid --security-opt: %q", o)
	}
	if key != "seccomp" || value == "unconfined" || value == "builtin" {
		return o, nil
	}
	profile, err := os.ReadFile(value)
	if err != nil {
		return "", fmt.Errorf("opening seccomp profile (%s) failed: %w", value, err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, profile); err != nil {
		return "", fmt.Errorf("compacting json for seccomp profile (%s) failed: %w", value, err)
	}
	return "seccomp=" + b.String(), nil
}
