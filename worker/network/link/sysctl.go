package link

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A Sysctl is a kernel parameter of an interface: /proc/sys/net/Family/Table/<interface>/Name.
type Sysctl struct{ Family, Table, Name, Value string }

// ParseSysctl reads "net.Family.Table.IFNAME.Name=Value". Nothing in it leads elsewhere.
func ParseSysctl(s string) (out Sysctl, ok bool) {
	key, value, ok := strings.Cut(s, "=")
	parts := strings.Split(key, ".")
	if !ok || len(parts) != 5 || parts[0] != "net" || strings.Contains(key, "/") || strings.Contains(s, "\x00") {
		return out, false
	}
	switch parts[1] {
	case "ipv4", "ipv6", "mpls":
	default:
		return out, false
	}
	// Docker's command line makes keys of options lower case.
	if !strings.EqualFold(parts[3], "IFNAME") || parts[2] == "" || parts[4] == "" {
		return out, false
	}
	return Sysctl{parts[1], parts[2], parts[4], value}, true
}

// set sets the parameter of an interface of the namespace that the thread is in. One that has the value is not written: it
// may be read-only.
func (s *Sysctl) set(iface string) error {
	path := filepath.Join("/proc/sys/net", s.Family, s.Table, iface, s.Name)
	if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is not a sysctl file", path)
	}
	got, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(got)) == s.Value {
		return nil
	}
	if err := os.WriteFile(path, []byte(s.Value), 0); err != nil {
		return fmt.Errorf("setting %s to %q: %w", path, s.Value, err)
	}
	return nil
}

// setSysctls sets the parameters of a port's interface.
func (n *Namespace) setSysctls(p *Port) error {
	if len(p.Sysctls) == 0 {
		return nil
	}
	return n.Do(func() error {
		for i := range p.Sysctls {
			if err := p.Sysctls[i].set(p.Interface); err != nil {
				return err
			}
		}
		return nil
	})
}
