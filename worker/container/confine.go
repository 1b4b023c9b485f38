package container

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/worker"
)

// confine applies the options of --security-opt. A profile of AppArmor and a label of SELinux are discarded with a warning
// where the kernel has no such module: docker ignores them there, and clients that always send them are many. Where it has
// the module, what cannot be applied is an error of the start.
func (m *Manager) confine(s *executor.Spec, opts []string) (warnings []string, err error) {
	if err := secure(s, opts); err != nil {
		return nil, err
	}
	have := executor.Modules{AppArmor: true, SELinux: true}
	if c, ok := m.deps.Host.(executor.Confiner); ok {
		have = c.Confines()
	}
	if s.AppArmor != "" && !have.AppArmor {
		if s.AppArmor != "unconfined" { // who has asked for none misses nothing
			warnings = append(warnings, fmt.Sprintf("Your kernel does not support AppArmor or it is not enabled. Profile %q discarded.", s.AppArmor))
		}
		s.AppArmor = ""
	}
	if s.SELinux != "" && !have.SELinux {
		warnings = append(warnings, fmt.Sprintf("Your kernel does not support SELinux or it is not enabled. Label %q discarded.", s.SELinux))
		s.SELinux = ""
	}
	return warnings, nil
}

// secure applies the options of --security-opt.
func secure(s *executor.Spec, opts []string) error {
	for _, opt := range opts {
		if opt == "no-new-privileges" {
			s.NoNewPrivileges = true
			continue
		}
		if opt == "writable-cgroups" {
			s.WritableCgroups = true
			continue
		}
		if opt == "disable" {
			continue // labels, which this daemon does not make up
		}
		key, value, ok := strings.Cut(opt, "=")
		if !ok {
			key, value, ok = strings.Cut(opt, ":")
		}
		if !ok {
			return worker.Invalidf("invalid --security-opt 1: %q", opt)
		}
		switch key {
		case "no-new-privileges", "writable-cgroups":
			on, err := strconv.ParseBool(value)
			if err != nil {
				return worker.Invalidf("invalid --security-opt 2: %q", opt)
			}
			if key == "writable-cgroups" {
				s.WritableCgroups = on
			} else {
				s.NoNewPrivileges = on
			}
		case "seccomp":
			if err := seccomp(s, value); err != nil {
				return err
			}
		case "apparmor":
			s.AppArmor = value
		case "label":
			s.SELinux = seLabel(s.SELinux, value)
		default:
			return worker.Invalidf("invalid --security-opt 2: %q", opt)
		}
	}
	return nil
}

func seccomp(s *executor.Spec, value string) error {
	switch value {
	case "unconfined":
		s.Seccomp.Unconfined = true
	case "builtin":
	default:
		if !json.Valid([]byte(value)) {
			return worker.Invalidf("Decoding seccomp profile failed: it is not valid JSON")
		}
		s.Seccomp.Profile = []byte(value)
	}
	return nil
}

// seLabel adds an option of the form part:value to a label of the form user:role:type:level.
func seLabel(label, opt string) string {
	part, value, _ := strings.Cut(opt, ":")
	i := slices.Index([]string{"user", "role", "type", "level"}, part)
	if i < 0 {
		return label // "disable"
	}
	parts := []string{"system_u", "system_r", "container_t", "s0"}
	if label != "" {
		parts = strings.SplitN(label, ":", 4)
	}
	parts[i] = value
	return strings.Join(parts, ":")
}
