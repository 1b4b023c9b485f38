package llb

import (
	"fmt"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/solver"
)

// Options say how a graph is written.
type Options struct {
	// Unpinned leaves out what pinning has found: sources are as somebody has asked for them.
	Unpinned bool
	// Pinned has it also of vertices that were decoded and then pinned. Otherwise they are written as they came, since that
	// is how the client knows them; in the same build they are pinned to the same again.
	Pinned bool
	// Session is whose directories and layouts those are that name no session, for builds of other sessions to find them.
	// What was decoded is left as it came.
	Session string
	// Files have the texts of the files that vertices name which were not decoded.
	Files []File
}

// An Encoder writes graphs as definitions. It remembers what it has written, so that what graphs have in common is written
// once; it holds their vertices for as long as it is held. It is safe for concurrent use.
type Encoder struct {
	opt Options

	mu   sync.Mutex // guards what follows
	done map[*solver.Vertex]*written
}

// A written is a vertex as an operation.
type written struct {
	digest digest.Digest
	raw    []byte
	meta   *pb.OpMetadata
	at     []*pb.Location // by o.files, or opt.Files
	o      *origin
	err    error
}

// NewEncoder returns an Encoder.
func NewEncoder(opt Options) *Encoder {
	return &Encoder{opt: opt, done: make(map[*solver.Vertex]*written)}
}

// Encode writes the graph of root as a definition; nil is the empty tree.
func Encode(root *solver.Input, opt Options) (*pb.Definition, error) {
	return NewEncoder(opt).Definition(root)
}

// Digest returns what v is called where it is shown: the digest of the operation that it was decoded from, also if that has
// been pinned since, or of the one that it is written as. A vertex that LLB cannot express has a digest of its key.
func (e *Encoder) Digest(v *solver.Vertex) digest.Digest {
	if d, ok := Decoded(v); ok {
		return d
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.writeLocked(v).digest
}

// Digest is Encoder.Digest for one vertex.
func Digest(v *solver.Vertex) digest.Digest { return NewEncoder(Options{}).Digest(v) }

// Definition writes the graph of root as a definition; nil is the empty tree. An operation that LLB cannot express is an
// error which names it.
func (e *Encoder) Definition(root *solver.Input) (*pb.Definition, error) {
	def := &pb.Definition{Metadata: make(map[string]*pb.OpMetadata), Source: &pb.Source{Locations: make(map[string]*pb.Locations)}}
	if root == nil {
		return def, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.writeLocked(root.Vertex)
	smap := &sourceMap{out: def.Source, opt: e.opt.Files}
	caps := map[string]bool{string(pb.CapConstraints): true, string(pb.CapPlatform): true}
	for v := range depthFirst([]solver.Input{*root}) {
		w := e.done[v]
		if w.err != nil {
			return nil, fmt.Errorf("writing %s as LLB: %w", v.Name(), w.err)
		}
		name := string(w.digest)
		smap.add(name, w)
		if def.Metadata[name] != nil {
			continue
		}
		def.Def = append(def.Def, w.raw)
		def.Metadata[name] = w.meta
		caps[string(pb.CapMetaIgnoreCache)] = caps[string(pb.CapMetaIgnoreCache)] || w.meta.IgnoreCache
		caps[string(pb.CapMetaDescription)] = caps[string(pb.CapMetaDescription)] || w.meta.Description != nil
		caps[string(pb.CapMetaExportCache)] = caps[string(pb.CapMetaExportCache)] || w.meta.ExportCache != nil
	}
	for c, needed := range caps {
		if !needed {
			delete(caps, c)
		}
	}
	last, err := marshal(&pb.Op{Inputs: []*pb.Input{{Digest: string(e.done[root.Vertex].digest), Index: int64(root.Output)}}})
	if err != nil {
		return nil, err
	}
	def.Def = append(def.Def, last)
	def.Metadata[digest.FromBytes(last).String()] = &pb.OpMetadata{Caps: caps}
	return def, nil
}

// writeLocked writes v and all that it needs, and returns what became of v.
func (e *Encoder) writeLocked(v *solver.Vertex) *written {
	if w := e.done[v]; w != nil {
		return w
	}
	for x := range depthFirst([]solver.Input{{Vertex: v}}) {
		if e.done[x] == nil {
			e.done[x] = e.one(x)
		}
	}
	return e.done[v]
}

// one writes v, whose inputs have been written.
func (e *Encoder) one(v *solver.Vertex) *written {
	o := originOf(v)
	if o != nil && e.asItCame(v, o) {
		w := &written{digest: o.digest, raw: o.raw, meta: Metadata(v), at: o.locations, o: o}
		return w
	}
	enc := &encoding{v: v, opt: &e.opt, out: &pb.Op{Constraints: &pb.WorkerConstraints{}}, caps: make(map[string]bool)}
	for _, in := range v.Inputs() {
		w := e.done[in.Vertex]
		if w.err != nil && enc.err == nil {
			enc.err = w.err
		}
		enc.input(&pb.Input{Digest: string(w.digest), Index: int64(in.Output)})
	}
	w := &written{o: o}
	if w.err = enc.encode(); w.err == nil {
		w.raw, w.err = marshal(enc.out)
	}
	if w.err != nil {
		w.digest = digest.NewDigestFromEncoded(digest.SHA256, v.Recipe().String())
		return w
	}
	w.digest = digest.FromBytes(w.raw)
	if o != nil {
		w.meta, w.at = Metadata(v), o.locations
		return w
	}
	w.meta = metadata(v)
	w.meta.Caps = enc.caps
	w.at = places(v, func(f File) int32 {
		w.o = &origin{files: []File{f}}
		return 0
	})
	return w
}

// asItCame says whether v can be written with the bytes that it was decoded from.
func (e *Encoder) asItCame(v *solver.Vertex, o *origin) bool {
	if o.raw == nil || o.op != v.Op() && e.opt.Pinned || len(o.inputs) != len(v.Inputs()) {
		return false
	}
	for i, in := range v.Inputs() {
		if e.done[in.Vertex].digest != o.inputs[i] {
			return false
		}
	}
	return true
}

// marshal returns the bytes that BuildKit's client makes of an operation.
func marshal(m *pb.Op) ([]byte, error) { return proto.MarshalOptions{Deterministic: true}.Marshal(m) }

// A sourceMap collects where the operations of a definition come from.
type sourceMap struct {
	out *pb.Source
	opt []File
}

// add adds the places of an operation.
func (s *sourceMap) add(name string, w *written) {
	if len(w.at) == 0 {
		return
	}
	have := s.out.Locations[name]
	if have == nil {
		have = &pb.Locations{}
		s.out.Locations[name] = have
	}
	for _, l := range w.at {
		l = &pb.Location{SourceIndex: s.index(w.o.files[l.SourceIndex]), Ranges: l.Ranges}
		dup := false
		for _, h := range have.Locations {
			dup = dup || proto.Equal(h, l)
		}
		if !dup {
			have.Locations = append(have.Locations, l)
		}
	}
}

// index returns the number of a file, which it adds if it is new.
func (s *sourceMap) index(f File) int32 {
	if f.Text == nil {
		for _, o := range s.opt {
			if o.Name == f.Name {
				f = o
			}
		}
	}
	for i, x := range s.out.Infos {
		if x.Filename == f.Name && x.Language == f.Language && string(x.Data) == string(f.Text) && proto.Equal(x.Definition, f.Definition) {
			return int32(i)
		}
	}
	s.out.Infos = append(s.out.Infos, &pb.SourceInfo{Filename: f.Name, Language: f.Language, Data: f.Text, Definition: f.Definition})
	return int32(len(s.out.Infos) - 1)
}
