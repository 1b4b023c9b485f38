package netns

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

// A resolvConf is what a resolv.conf(5) says.
type resolvConf struct {
	servers []netip.Addr
	search  []string
	options []string
}

// maxResolvConf bounds the file, in bytes.
const maxResolvConf = 64 << 10

func readResolvConf(path string) (*resolvConf, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return parseResolvConf(nil), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the host's DNS servers: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	if err != nil {
		return nil, fmt.Errorf("reading the host's DNS servers: %w", err)
	}
	return parseResolvConf(data), nil
}

// parseResolvConf takes what it understands, as resolvers do. Without a server, the one on this host is meant.
func parseResolvConf(data []byte) *resolvConf {
	c := new(resolvConf)
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
				c.servers = append(c.servers, a)
			}
		case "domain", "search":
			c.search = f[1:] // the last one counts
		case "options":
			c.options = append(c.options, f[1:]...)
		}
	}
	if len(c.servers) == 0 {
		c.servers = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return c
}

// forSandbox returns the file of a sandbox whose only server is the forwarder. Options about the way to the servers, of
// which the sandbox has another, are left out.
func (c *resolvConf) forSandbox(server netip.Addr) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "nameserver %s\n", server)
	if len(c.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.search, " "))
	}
	options := slices.DeleteFunc(slices.Clone(c.options), func(o string) bool {
		return o == "trust-ad" || o == "rotate" || o == "inet6"
	})
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.Bytes()
}
