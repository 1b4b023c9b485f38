package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"sync"
)

// subnetBits is the length of a daemon's subnet: a /20 has 4093 addresses for sandboxes.
const subnetBits = 20

var errNoAddress = errors.New("every address of the sandboxes' subnet is in use")

// chooseSubnet returns the first free subnet of within, beginning at a place that depends on id, so that a daemon gets
// the same one each time unless somebody else has taken it.
func chooseSubnet(within netip.Prefix, id string, used []netip.Prefix) (netip.Prefix, error) {
	count := uint32(1) << (subnetBits - within.Bits())
	h := fnv.New32a()
	h.Write([]byte(id))
	first := h.Sum32() % count
	base := as32(within.Addr())
	for i := range count {
		at := base + (first+i)%count<<(32-subnetBits)
		p := netip.PrefixFrom(from32(at), subnetBits)
		if !overlapsAny(p, used) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("finding a subnet for sandboxes: the host has routes to all of %s", within)
}

func overlapsAny(p netip.Prefix, used []netip.Prefix) bool {
	for _, u := range used {
		if p.Overlaps(u) {
			return true
		}
	}
	return false
}

func as32(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func from32(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// Addresses hands out the addresses of a subnet beyond the first, which is the gateway's. One that comes back is the
// last to be handed out again, so that the kernel has had time to remove the device that had it, and peers to forget.
type addresses struct {
	mu    sync.Mutex
	queue []netip.Addr // guarded by mu
}

func newAddresses(subnet netip.Prefix) *addresses {
	first, size := as32(subnet.Addr()), uint32(1)<<(32-subnet.Bits())
	a := &addresses{queue: make([]netip.Addr, 0, size)}
	// The last one is the broadcast address.
	for i := uint32(2); i < size-1; i++ {
		a.queue = append(a.queue, from32(first+i))
	}
	return a
}

func (a *addresses) take() (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		return netip.Addr{}, errNoAddress
	}
	addr := a.queue[0]
	a.queue = a.queue[1:]
	return addr, nil
}

func (a *addresses) free(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue = append(a.queue, addr)
}
