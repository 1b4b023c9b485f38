package llb

import (
	"fmt"
	"slices"
	"strings"

	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
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

// need returns an error, a *CapError, if boxbuild has not the capability id.
func need(id string) error {
	reason, known := lacking[id]
	if !known && isLLB(id) {
		return nil
	}
	return &CapError{ID: id, Reason: reason}
}

// Supports returns a *CapError if boxbuild has not the capability id of LLB.
func Supports(id string) error { return need(id) }

// llbIDs are the capabilities of LLB that this version knows, by package pb's list.
var llbIDs = func() map[string]bool {
	ids := make(map[string]bool)
	for _, c := range pb.Caps.All() {
		ids[c.ID] = true
	}
	for _, id := range unlisted {
		ids[id] = true
	}
	return ids
}()

func isLLB(id string) bool { return llbIDs[id] }

// Caps returns the capabilities of LLB as they are announced to clients, those included that boxbuild knows and has not.
func Caps() []*capspb.APICap { return announce(pb.Caps.All(), lacking) }

// GatewayCaps returns the capabilities of the gateway protocol as they are announced to clients.
func GatewayCaps() []*capspb.APICap { return announce(gateway.Caps.All(), lackingGateway) }

// announce returns a copy of all, where those in without are disabled.
func announce(all []*capspb.APICap, without map[string]string) []*capspb.APICap {
	out := make([]*capspb.APICap, 0, len(all))
	for _, c := range all {
		c := &capspb.APICap{ID: c.ID, Enabled: c.Enabled, Deprecated: c.Deprecated, DisabledReason: c.DisabledReason, DisabledReasonMsg: c.DisabledReasonMsg, DisabledAlternative: c.DisabledAlternative}
		if reason, ok := without[c.ID]; ok {
			c.Enabled, c.DisabledReason, c.DisabledReasonMsg = false, "unsupported", reason
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *capspb.APICap) int { return strings.Compare(a.ID, b.ID) })
	return out
}
