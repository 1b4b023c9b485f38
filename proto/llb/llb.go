// Package llb is the codec between graphs of package solver and LLB definitions, which are how BuildKit's clients and
// frontends write a graph (github.com/moby/buildkit/solver/pb).
//
// # Both ways
//
// Decode turns a definition into vertices whose operations are those of package solver/op. What an operation has no use
// for (a description, who may export its cache, how exactly something was spelt) stays with the vertex, so that an
// Encoder gives the same bytes again, and with them the same digests: these are how a client knows its vertices. A vertex
// that was not decoded, or whose operation or inputs have been replaced since, is written as BuildKit's own client writes
// it. So a graph of the Dockerfile frontend's is a definition too, and decoded has the same keys.
//
// What a definition says is taken or refused, never dropped: an unknown attribute, field or capability is an error that
// names it.
//
// # Inputs
//
// LLB names each input once, however often an operation reads it, and says nowhere what is read of it. A solver.Vertex has
// an input for each use, with the Selector that the use implies: that of a copy its source paths and patterns, that of a
// mount its directory. Encoding joins equal inputs again. A selector that no operation implies cannot be written, and is
// an error.
//
// # Pins
//
// A pinned image is a reference with a digest. What pins other sources LLB has no words for; attributes which begin with
// "boxbuild." have it. They are a claim like everything in a definition: who decodes one from outside must not believe a
// directory's (see package frontend/llb).
//
// # Hostile definitions
//
// Nothing here recurses over the graph, so its depth does not matter, and nothing is allocated by a number in it. Paths
// in a tree are made absolute and clean: none leads out of it.
//
// Everything in this package is a pure function of its arguments. A Graph may be used concurrently, and so may an Encoder,
// which has one lock that is held for no I/O.
package llb

import (
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
)

// A Graph is a decoded definition. It must not be changed.
type Graph struct {
	// Root is what the definition is of; nil if that is the empty tree.
	Root *solver.Input
	// Vertices are those of the operations of the definition that Root needs, inputs first.
	Vertices []*solver.Vertex
	// Files are those that the vertices come from.
	Files []File

	byDigest map[digest.Digest]*solver.Vertex
}

// Vertex returns the vertex of the operation with that digest; nil if Root needs none.
func (g *Graph) Vertex(d digest.Digest) *solver.Vertex { return g.byDigest[d] }

// A File is a file of the user's that a graph comes from.
type File struct {
	Name     string
	Language string // as github-linguist calls it
	Text     []byte
	// Definition is of the tree that has the file, if that is known. It is only recorded.
	Definition *pb.Definition
}

// origin is what a vertex remembers, as solver.Meta.Wire, of the operation that it was decoded from.
type origin struct {
	digest    digest.Digest
	raw       []byte          // the operation
	op        solver.Op       // what it was decoded to
	inputs    []digest.Digest // what the vertex's inputs were called
	meta      *pb.OpMetadata  // nil if there was none
	platform  *pb.Platform
	filter    []string // of workers
	locations []*pb.Location
	files     []File
}

// originOf returns what v remembers; nil if it was not decoded.
func originOf(v *solver.Vertex) *origin {
	o, _ := v.Meta().Wire.(*origin)
	return o
}

// Decoded returns the digest of the operation that v was decoded from, which is what the client calls it, also if it has been
// pinned since; ok is false if v was not decoded.
func Decoded(v *solver.Vertex) (d digest.Digest, ok bool) {
	if o := originOf(v); o != nil {
		return o.digest, true
	}
	return "", false
}

// Metadata returns what a definition says of a vertex besides its operation: that of the definition that it was decoded
// from, or what Encode would write. It must not be changed.
func Metadata(v *solver.Vertex) *pb.OpMetadata {
	if o := originOf(v); o != nil {
		if o.meta == nil {
			return &pb.OpMetadata{}
		}
		return o.meta
	}
	return metadata(v)
}
