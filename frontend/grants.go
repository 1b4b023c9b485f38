package frontend

import (
	"encoding/csv"
	"fmt"
	"strings"
)

// The entitlements: what goes beyond a sandbox, and which both the daemon's configuration and the request have to give.
const (
	EntitlementNetworkHost = "network.host"
	EntitlementInsecure    = "security.insecure"
	EntitlementDevice      = "device" // of all devices, or "device=NAME[,alias=NAME]"
)

// NotAllowed is the error of a Dockerfile that wants what it was not granted.
func NotAllowed(entitlement string) error {
	return fmt.Errorf("%[1]s is not allowed: the build was not given --allow %[1]s", entitlement)
}

// Grants are entitlements, read. The zero value grants nothing.
type Grants struct {
	NetworkHost bool
	Insecure    bool
	Device      bool              // some device, or all
	AllDevices  bool              // without a name
	Devices     map[string]string // by the name that a Dockerfile uses: "", or the device that it stands for
}

// ParseGrants reads entitlements as a request, or the configuration of a daemon, has them. An error is a *UsageError.
func ParseGrants(list []string) (*Grants, error) {
	g := new(Grants)
	for _, e := range list {
		key, device, named := strings.Cut(e, "=")
		switch {
		case e == EntitlementNetworkHost:
			g.NetworkHost = true
		case e == EntitlementInsecure:
			g.Insecure = true
		case key == EntitlementDevice && device == "":
			g.Device, g.AllDevices = true, true
		case key == EntitlementDevice && named:
			if err := g.addDevice(device); err != nil {
				return nil, err
			}
		default:
			return nil, &UsageError{Message: "unknown entitlement " + e}
		}
	}
	return g, nil
}

func (g *Grants) addDevice(s string) error {
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return &UsageError{Message: fmt.Sprintf("invalid device config %q: %v", s, err)}
	}
	name, target := fields[0], ""
	for _, f := range fields[1:] {
		k, v, ok := strings.Cut(f, "=")
		switch {
		case !ok:
			return &UsageError{Message: fmt.Sprintf("invalid device config %q", f)}
		case k != "alias":
			return &UsageError{Message: fmt.Sprintf("unknown device config key %q", k)}
		}
		name, target = v, fields[0]
	}
	if g.Devices == nil {
		g.Devices = make(map[string]string)
	}
	g.Device, g.Devices[name] = true, target
	return nil
}

// Within returns an error, a *UsageError, if g grants of what allowed does not know: the daemon's configuration has the
// last word.
func (g *Grants) Within(allowed *Grants) error {
	for _, e := range []struct {
		name        string
		asked, have bool
	}{
		{EntitlementNetworkHost, g.NetworkHost, allowed.NetworkHost},
		{EntitlementInsecure, g.Insecure, allowed.Insecure},
		{EntitlementDevice, g.Device, allowed.Device},
	} {
		if e.asked && !e.have {
			return &UsageError{Message: fmt.Sprintf("granting entitlement %s is not allowed by build daemon configuration", e.name)}
		}
	}
	return nil
}
