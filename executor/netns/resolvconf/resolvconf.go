// Package resolvconf reads and writes resolv.conf(5), as hosts have it and as sandboxes and containers are to have it.
package resolvconf

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

// A Conf is what a resolv.conf(5) says.
type Conf struct {
	Servers []netip.Addr
	Search  []string
	Options []string
}

// maxFile bounds the file, in bytes.
const maxFile = 64 << 10

// Read reads a file; one that does not exist says nothing.
func Read(path string) (*Conf, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return new(Conf), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the host's DNS servers: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("reading the host's DNS servers: %w", err)
	}
	return Parse(data), nil
}

// Parse takes what it understands, as resolvers do.
func Parse(data []byte) *Conf {
	c := new(Conf)
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
				c.Servers = append(c.Servers, a)
			}
		case "domain", "search":
			c.Search = f[1:] // the last one counts
		case "options":
			c.Options = append(c.Options, f[1:]...)
		}
	}
	return c
}

// Outside returns c without the servers that only the host itself reaches: those on loopback, and link-local ones.
func (c *Conf) Outside() *Conf {
	out := &Conf{Search: c.Search, Options: c.Options}
	for _, a := range c.Servers {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() && a.Zone() == "" {
			out.Servers = append(out.Servers, a)
		}
	}
	return out
}

// With returns c with what a user asks for in place of what c has; a search list of "." is none.
func (c *Conf) With(servers []netip.Addr, search, options []string) *Conf {
	out := *c
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
func (c *Conf) File() []byte {
	var b bytes.Buffer
	for _, s := range c.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(c.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.Search, " "))
	}
	if len(c.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(c.Options, " "))
	}
	return b.Bytes()
}

// Asking returns c for somebody who asks server alone, which asks the servers of c in turn. Options about the way to those,
// which say nothing of the way to server, are left out.
func (c *Conf) Asking(server netip.Addr) *Conf {
	options := slices.DeleteFunc(slices.Clone(c.Options), func(o string) bool {
		return o == "trust-ad" || o == "rotate" || o == "inet6"
	})
	return &Conf{Servers: []netip.Addr{server}, Search: c.Search, Options: options}
}
