package away

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/boxbuild/boxbuild/worker/network/names/book"
)

// A description is what is needed of a container's, which package network writes.
type description struct {
	Container string
	Endpoints []struct {
		Network     string
		NetworkName string
		Addrs       []netip.Prefix
		DNSNames    []string
		Asked       *struct{ Links []string }
	}
}

// read makes the book of a container. What cannot be read is left out: there is nobody to tell.
func read(dir, container string) book.Book {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil
	}
	members := make(map[string][]book.Member) // by network
	var own description
	for _, name := range files {
		data, err := os.ReadFile(name)
		var d description
		if err != nil || json.Unmarshal(data, &d) != nil {
			continue
		}
		if d.Container == container {
			own = d
		}
		for _, e := range d.Endpoints {
			members[e.Network] = append(members[e.Network], book.Member{Names: e.DNSNames, Addrs: e.Addrs})
		}
	}
	var out book.Book
	for _, e := range own.Endpoints {
		if e.NetworkName == "" {
			continue
		}
		n := book.Network{Name: e.NetworkName, Members: members[e.Network]}
		if e.Asked != nil {
			n.Links = e.Asked.Links
		}
		out = append(out, n)
	}
	return out
}
