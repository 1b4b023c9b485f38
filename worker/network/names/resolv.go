package names

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// A Resolv is what a resolv.conf(5) says.
type Resolv struct {
	Servers []netip.Addr
	Search  []string
	Options []string
}

// maxResolv bounds the file, in bytes.
const maxResolv = 64 << 10

// ReadResolv reads a file; one that does not exist says nothing.
func ReadResolv(path string) (*Resolv, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return new(Resolv), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the host's DNS servers: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxResolv))
	if err != nil {
		return nil, fmt.Errorf("reading the host's DNS servers: %w", err)
	}
	return ParseResolv(data), nil
}

// ParseResolv takes what it understands, as resolvers do.
func ParseResolv(data []byte) *Resolv {
	r := new(Resolv)
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		line, _, _ = strings.Cut(line, ";")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil {
				r.Servers = append(r.Servers, a)
			}
		case "domain", "search":
			r.Search = f[1:] // the last one counts
		case "options":
			r.Options = append(r.Options, f[1:]...)
		}
	}
	return r
}

// Outside returns r without the servers that only the host itself reaches: those on loopback, and link-local ones.
func (r *Resolv) Outside() *Resolv {
	out := &Resolv{Search: r.Search, Options: r.Options}
	for _, a := range r.Servers {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() && a.Zone() == "" {
			out.Servers = append(out.Servers, a)
		}
	}
	return out
}

// With returns r with what a user asks for in place of what r has; a search list of "." is none.
func (r *Resolv) With(servers []netip.Addr, search, options []string) *Resolv {
	out := *r
	if len(servers) > 0 {
		out.Servers = servers
	}
	if len(search) > 0 {
		out.Search = slices.DeleteFunc(slices.Clone(search), func(s string) bool { return s == "." })
	}
	if len(options) > 0 {
		out.Options = options
	}
	return &out
}

// File returns the file.
func (r *Resolv) File() []byte {
	var b bytes.Buffer
	for _, s := range r.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.Search, " "))
	}
	if len(r.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.Options, " "))
	}
	return b.Bytes()
}

// Embedded is where the DNS server of a container's namespace is.
var Embedded = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// ForEmbedded returns the file of a container whose names the embedded server resolves. A name with a dot in it is tried as
// it is first, one without is a container's.
func (r *Resolv) ForEmbedded() []byte {
	out := *r
	out.Servers = []netip.Addr{Embedded}
	out.Options = slices.DeleteFunc(slices.Clone(out.Options), func(o string) bool {
		return o == "trust-ad" || o == "rotate" || o == "inet6"
	})
	if !slices.ContainsFunc(out.Options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
		out.Options = append(out.Options, "ndots:0")
	}
	return out.File()
}
