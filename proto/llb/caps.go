package llb

import (
	"fmt"
	"maps"
	"slices"

	capspb "github.com/moby/buildkit/util/apicaps/pb"
)

// A CapError is a capability that a definition asks for and boxbuild has not.
type CapError struct {
	ID string
	// Reason says why, if boxbuild knows the capability.
	Reason string
}

// Error has BuildKit's words, by which clients know it.
func (e *CapError) Error() string {
	if e.Reason == "" {
		return "unknown API capability " + e.ID
	}
	return fmt.Sprintf("requested feature %s has been disabled on the build server: %s", e.ID, e.Reason)
}

// Supports returns a *CapError if boxbuild has not the capability id of LLB.
func Supports(id string) error {
	if reason, known := capabilities[id]; !known || reason != have {
		return &CapError{ID: id, Reason: reason}
	}
	return nil
}

// Caps returns the capabilities of LLB as they are announced to clients, sorted by ID; those that boxbuild lacks are
// disabled.
func Caps() []*capspb.APICap { return announce(capabilities) }

// GatewayCaps is Caps for the gateway protocol.
func GatewayCaps() []*capspb.APICap { return announce(gatewayCapabilities) }

func announce(table map[string]string) []*capspb.APICap {
	out := make([]*capspb.APICap, 0, len(table))
	for _, id := range slices.Sorted(maps.Keys(table)) {
		c := &capspb.APICap{ID: id, Enabled: true}
		if reason := table[id]; reason != have {
			c.Enabled, c.DisabledReason, c.DisabledReasonMsg = false, "unsupported", reason
		}
		out = append(out, c)
	}
	return out
}
