package network

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/worker"
)

// findLocked finds a network by its name, its ID or, if that is unique, a part of the ID.
func (s *Service) findLocked(ref string) (*netw, error) {
	if n := s.networks[ref]; n != nil && !n.gone {
		return n, nil
	}
	if ref == network.NetworkDefault {
		ref = nameBridge
	}
	if n := s.byName(ref); n != nil && !n.gone {
		return n, nil
	}
	var found *netw
	for id, n := range s.networks {
		if ref == "" || n.gone || !strings.HasPrefix(id, ref) {
			continue
		}
		if found != nil {
			return nil, worker.Invalidf("network %s is ambiguous (2 matches found based on ID prefix)", ref)
		}
		found = n
	}
	if found == nil {
		return nil, worker.NotFoundf("network %s not found", ref)
	}
	return found, nil
}

// Inspect implements worker.Networks.
func (s *Service) Inspect(_ context.Context, ref string) (*network.Inspect, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.findLocked(ref)
	if err != nil {
		return nil, err
	}
	out := &network.Inspect{Network: n.show(), Containers: make(map[string]network.EndpointResource)}
	for id, ep := range n.endpoints {
		res := network.EndpointResource{EndpointID: ep.ID, MacAddress: network.HardwareAddr(ep.MAC)}
		res.IPv4Address, res.IPv6Address = ep.addr(false), ep.addr(true)
		if sb := s.sandboxes[id]; sb != nil {
			res.Name = sb.Name
		}
		out.Containers[id] = res
	}
	if len(n.subnets) > 0 {
		out.Status = &network.Status{IPAM: network.IPAMStatus{Subnets: make(network.SubnetStatuses)}}
		for _, sub := range n.subnets {
			used, free := sub.Usage()
			out.Status.IPAM.Subnets[sub.Prefix] = network.SubnetStatus{IPsInUse: used, DynamicIPsAvailable: free}
		}
	}
	return out, nil
}

// show is the network as the API has it.
func (n *netw) show() network.Network {
	out := n.Network
	out.Labels, out.Options = maps.Clone(n.Labels), maps.Clone(n.Options)
	out.IPAM.Config = slices.Clone(n.IPAM.Config)
	if out.IPAM.Config == nil {
		out.IPAM.Config = []network.IPAMConfig{}
	}
	return out
}

// List implements worker.Networks.
func (s *Service) List(_ context.Context, filters worker.Filters) ([]network.Summary, error) {
	if err := filters.Check("driver", "id", "label", "name", "scope", "type", "dangling"); err != nil {
		return nil, err
	}
	dangling, err := filters.Bool("dangling", false)
	if err != nil {
		return nil, err
	}
	for _, t := range filters["type"] {
		if t != "builtin" && t != "custom" {
			return nil, worker.Invalidf("invalid filter: 'type'='%s'", t)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []network.Summary{}
	for id, n := range s.networks {
		kind := "custom"
		if !n.userDefined() {
			kind = "builtin"
		}
		idMatches := len(filters["id"]) == 0 || slices.ContainsFunc(filters["id"], func(p string) bool { return strings.HasPrefix(id, p) })
		if n.gone || !idMatches || !filters.Match("driver", n.Driver) || !filters.Contains("name", n.Name) ||
			!filters.Match("scope", n.Scope) || !filters.Match("type", kind) || !filters.Labels(n.Labels) ||
			len(filters["dangling"]) > 0 && dangling != (kind == "custom" && len(n.endpoints) == 0) {
			continue
		}
		out = append(out, network.Summary{Network: n.show()})
	}
	slices.SortFunc(out, func(a, b network.Summary) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

// Remove implements worker.Networks.
func (s *Service) Remove(ctx context.Context, ref string) error {
	s.mu.Lock()
	n, err := s.findLocked(ref)
	if err == nil && !n.userDefined() {
		err = worker.Errorf(errForbidden, "%s is a pre-defined network and cannot be removed", n.Name)
	}
	if err == nil && len(n.endpoints) > 0 {
		var who []string
		for id, ep := range n.endpoints {
			name := id
			if sb := s.sandboxes[id]; sb != nil {
				name = sb.Name
			}
			who = append(who, "name:\""+name+"\" id:\""+ep.ID[:12]+"\"")
		}
		slices.Sort(who)
		err = worker.Errorf(errForbidden, "error while removing network: network %s has active endpoints (%s)", n.Name, strings.Join(who, ", "))
	}
	if err == nil {
		n.gone = true // nobody can join it from here on
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := s.drop(ctx, n); err != nil {
		return err
	}
	s.publish(n, events.ActionDestroy, nil)
	return nil
}

// drop removes a network that nobody is on.
func (s *Service) drop(ctx context.Context, n *netw) error {
	leave, err := s.turns.take(ctx, n.ID)
	if err == nil {
		defer leave()
		err = s.opts.DB.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Delete([]byte(n.ID)) })
	}
	s.mu.Lock()
	if err != nil {
		n.gone = false // it stays, and can be removed again
		s.mu.Unlock()
		return err
	}
	delete(s.networks, n.ID)
	n.bridge = 0
	s.mu.Unlock()
	if n.Driver != driverBridge {
		return nil
	}
	// Also of one whose bridge could not be made in full: its subnet would stay in the rules, and be in the way of another's.
	rules := n.rules()
	return errors.Join(s.table.RemoveNetwork(&rules), s.passage(n.bridgeName()).Close(), s.host.RemoveBridge(n.bridgeName()))
}

// Prune implements worker.Networks: it removes what users have made and no container is on.
func (s *Service) Prune(ctx context.Context, filters worker.Filters) (*network.PruneReport, error) {
	if err := filters.Check("label", "label!", "until"); err != nil {
		return nil, err
	}
	until, err := parseUntil(filters["until"], s.now())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	var ids []string
	for id, n := range s.networks {
		if n.userDefined() && !n.gone && len(n.endpoints) == 0 && filters.Labels(n.Labels) && (until.IsZero() || n.Created.Before(until)) &&
			!s.namedLocked(n) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Compare(s.networks[a].Name, s.networks[b].Name) })
	s.mu.Unlock()
	report := &network.PruneReport{NetworksDeleted: []string{}}
	for _, id := range ids {
		s.mu.Lock()
		n := s.networks[id]
		s.mu.Unlock()
		if n == nil || s.Remove(ctx, id) != nil {
			continue // a container has come to use it, or somebody else has removed it
		}
		report.NetworksDeleted = append(report.NetworksDeleted, n.Name)
	}
	if s.opts.Events != nil {
		s.opts.Events.Publish(events.Message{
			Type: events.NetworkEventType, Action: events.ActionPrune, Actor: events.Actor{Attributes: map[string]string{"reclaimed": "0"}},
		})
	}
	return report, nil
}

// namedLocked says whether another network has its configuration from n.
func (s *Service) namedLocked(n *netw) bool {
	for _, o := range s.networks {
		if n.ConfigOnly && o.ConfigFrom.Network == n.Name {
			return true
		}
	}
	return false
}

// parseUntil reads the filter "until": a time, or how long ago.
func parseUntil(values []string, now time.Time) (time.Time, error) {
	if len(values) == 0 {
		return time.Time{}, nil
	}
	if len(values) > 1 {
		return time.Time{}, worker.Invalidf("more than one until filter specified")
	}
	v := values[0]
	if d, err := time.ParseDuration(v); err == nil {
		return now.Add(-d), nil
	}
	if secs, err := strconv.ParseFloat(v, 64); err == nil {
		return time.Unix(0, int64(secs*1e9)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, worker.Invalidf("invalid filter 'until=%s'", v)
}
