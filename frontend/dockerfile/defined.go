package dockerfile

import (
	"cmp"
	"encoding/json"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// defined returns the LLB of the client's directory that the Dockerfile was read from, as programs find it in JSON; nil if
// the file came another way. A client that has not opened a session has no definitions of its own.
func defined(req *frontend.Request) json.RawMessage {
	from := req.Dockerfile
	if from == nil {
		from = req.Context
	}
	dir, ok := from.(*op.Local)
	if _, given := dockerfileInput(req, from); !ok || given || req.Session == "" || req.Text != nil {
		return nil
	}
	name := cmp.Or(req.Filename, defaultName)
	v := solver.NewVertex(definedLocal(dir, name, req.Session), nil, solver.Meta{Name: loadStep + name})
	def, err := llb.Encode(&solver.Input{Vertex: v}, llb.Options{})
	if err != nil {
		return nil // it is no more than where the text is from
	}
	d := digest.FromBytes(def.Def[0]).String()
	def.Source.Locations[d] = &pb.Locations{}
	delete(def.Metadata[d].Caps, string(pb.CapSourceLocalDiffer)) // who does not know it fetches the same files
	out, err := json.Marshal(def)
	if err != nil {
		return nil
	}
	return out
}

// loadStep is the name of the step that reads the Dockerfile, up to the file's.
const loadStep = "[internal] load build definition from "
