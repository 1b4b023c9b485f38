package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
)

// Errors of a Subnet, found with errors.Is. The texts are docker's.
var (
	ErrInUse   = errors.New("Address already in use") //nolint:staticcheck // docker's words
	ErrFull    = errors.New("no available IPv4 addresses on this network's address pools")
	ErrOutside = errors.New("address is not in the subnet")
)

// A Subnet hands out its addresses, the lowest free one first, so that containers which are started one after the other
// have addresses in that order.
type Subnet struct {
	Prefix netip.Prefix
	within netip.Prefix // where addresses that nobody asked for come from

	mu   sync.Mutex
	used map[netip.Addr]bool // guarded by mu
	next netip.Addr          // guarded by mu; none below it is free
}

// NewSubnet returns a Subnet whose reserved addresses are never handed out. Those that nobody asks for by name come from
// within, which is the whole subnet unless it is valid.
func NewSubnet(prefix, within netip.Prefix, reserved ...netip.Addr) *Subnet {
	if !within.IsValid() {
		within = prefix
	}
	s := &Subnet{Prefix: prefix, within: within, used: make(map[netip.Addr]bool)}
	s.used[prefix.Masked().Addr()] = true
	if prefix.Addr().Is4() {
		s.used[Last(prefix)] = true
	}
	for _, a := range reserved {
		s.used[a] = true
	}
	s.next = within.Masked().Addr()
	return s
}

// Take returns an address that is free.
func (s *Subnet) Take() (netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.next
	for ; a.IsValid() && s.within.Contains(a); a = a.Next() {
		if !s.used[a] {
			s.used[a] = true
			s.next = a.Next()
			return a, nil
		}
	}
	s.next = a
	return netip.Addr{}, ErrFull
}

// TakeThis takes an address that somebody asks for.
func (s *Subnet) TakeThis(a netip.Addr) error {
	if !s.Prefix.Contains(a) {
		return fmt.Errorf("%s: %w", a, ErrOutside)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used[a] {
		return ErrInUse
	}
	s.used[a] = true
	return nil
}

// Free gives an address back.
func (s *Subnet) Free(a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.used, a)
	if s.within.Contains(a) && (!s.next.IsValid() || a.Less(s.next)) {
		s.next = a
	}
}

// Usage returns how many addresses are not free, and how many there are to be had without asking for one by name.
func (s *Subnet) Usage() (used, free uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bits := min(s.within.Addr().BitLen()-s.within.Bits(), 63)
	free = 1 << bits
	for a := range s.used {
		if s.within.Contains(a) {
			free--
		}
	}
	return uint64(len(s.used)), free
}
