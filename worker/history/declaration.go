package history

import (
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
)

// A declaration is a vertex as the log has it: all that it says of itself to people.
type declaration struct {
	Key    string
	Op     string
	Digest digest.Digest   `json:",omitempty"` // if it is not made of Key
	Inputs []declaredInput `json:",omitempty"`

	Name        string         `json:",omitempty"`
	Group       string         `json:",omitempty"`
	Source      []solver.Range `json:",omitempty"`
	File        string         `json:",omitempty"`
	Text        []byte         `json:",omitempty"`
	IgnoreCache bool           `json:",omitempty"`
	Internal    bool           `json:",omitempty"`
	Platform    string         `json:",omitempty"`
	Tags        []string       `json:",omitempty"`
}

// A declaredInput is an input of a vertex. Vertex is 0 for one that was not declared.
type declaredInput struct {
	Vertex uint32 `json:",omitempty"`
	Key    string `json:",omitempty"` // of a vertex that was not declared
	Output int    `json:",omitempty"`
}

// declaration returns what is recorded of v, but for its inputs.
func (s *Store) declaration(v *solver.Vertex) declaration {
	m := v.Meta()
	d := declaration{
		Key: v.Recipe().String(), Op: v.Op().String(),
		Name: m.Name, Group: m.Group, Source: m.Source, File: m.File, Text: m.Text, IgnoreCache: m.IgnoreCache,
		Internal: m.Internal, Platform: m.Platform, Tags: m.Tags,
	}
	if s.opt.Digest != nil {
		if given := s.opt.Digest(v); given != keyDigest(v.Recipe()) {
			d.Digest = given
		}
	}
	return d
}

func (d *declaration) meta() solver.Meta {
	return solver.Meta{
		Name: d.Name, Group: d.Group, Source: d.Source, File: d.File, Text: d.Text, IgnoreCache: d.IgnoreCache,
		Internal: d.Internal, Platform: d.Platform, Tags: d.Tags,
	}
}

func (d *declaration) digest(key solver.Key) digest.Digest {
	if d.Digest != "" {
		return d.Digest
	}
	return keyDigest(key)
}

func keyDigest(key solver.Key) digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, key.String())
}
