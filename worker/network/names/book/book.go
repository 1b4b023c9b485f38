// Package book says which containers a container finds by name, and by address. It is plain data, so that the daemon and the
// process that goes on without it answer alike.
package book

import (
	"net/netip"
	"slices"
	"strings"
)

// A Book is what a container's networks have; those without names are left out.
type Book []Network

// A Network is one that a container is on, as it sees it.
type Network struct {
	Name    string
	Members []Member
	// Links are, as docker has them, names of the container's own for others: "web", "web:alias" or "/web:/own/alias".
	Links []string
}

// A Member is a container on a network.
type Member struct {
	Names []string // the first is what its address is called
	Addrs []netip.Prefix
}

// Addrs returns the addresses of a name without a dot at its end; known is false for one that is not a container's.
func (b Book) Addrs(name string) (out []netip.Addr, known bool) {
	for _, n := range b {
		// Names may be followed by that of the network.
		short, suffix := name, "."+n.Name
		if len(name) > len(suffix) && strings.EqualFold(name[len(name)-len(suffix):], suffix) {
			short = name[:len(name)-len(suffix)]
		}
		linked := n.linked(name)
		for _, m := range n.Members {
			match := slices.ContainsFunc(m.Names, func(dn string) bool {
				return strings.EqualFold(dn, name) || strings.EqualFold(dn, short) || linked != "" && dn == linked
			})
			if !match {
				continue
			}
			known = true
			for _, a := range m.Addrs {
				out = append(out, a.Addr())
			}
		}
	}
	return out, known
}

// Name returns the name of the container that has an address, with its network's: "web.net"; "" if none has.
func (b Book) Name(a netip.Addr) string {
	for _, n := range b {
		for _, m := range n.Members {
			if len(m.Names) > 0 && slices.ContainsFunc(m.Addrs, func(p netip.Prefix) bool { return p.Addr() == a }) {
				return m.Names[0] + "." + n.Name
			}
		}
	}
	return ""
}

// linked returns the container that links call by a name.
func (n *Network) linked(name string) string {
	for _, l := range n.Links {
		if target, alias := SplitLink(l); strings.EqualFold(alias, name) {
			return target
		}
	}
	return ""
}

// SplitLink reads "name", "name:alias" or, as it is stored, "/name:/own/alias".
func SplitLink(s string) (name, alias string) {
	name, alias, _ = strings.Cut(s, ":")
	name = strings.TrimPrefix(name, "/")
	if i := strings.LastIndexByte(alias, '/'); i >= 0 {
		alias = alias[i+1:]
	}
	if alias == "" {
		alias = name
	}
	return name, alias
}

// ParseReverse reads the name of an address: 4.3.2.1.in-addr.arpa, or 32 digits and ip6.arpa.
func ParseReverse(name string) (netip.Addr, bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if labels, is4 := strings.CutSuffix(name, ".in-addr.arpa"); is4 {
		parts := strings.Split(labels, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil
	}
	labels, is6 := strings.CutSuffix(name, ".ip6.arpa")
	digits := strings.Split(labels, ".")
	if !is6 || len(digits) != 32 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := len(digits) - 1; i >= 0; i-- {
		if len(digits[i]) != 1 {
			return netip.Addr{}, false
		}
		b.WriteString(digits[i])
		if i%4 == 0 && i > 0 {
			b.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}
