package llb

import (
	"fmt"

	"github.com/moby/buildkit/solver/pb"

	"github.com/boxbuild/boxbuild/solver"
)

// readSource reads where the operations of a definition come from.
func readSource(s *pb.Source) (map[string][]*pb.Location, []File, error) {
	if s == nil {
		return nil, nil, nil
	}
	files := make([]File, 0, len(s.Infos))
	for _, i := range s.Infos {
		files = append(files, File{Name: i.GetFilename(), Language: i.GetLanguage(), Text: i.GetData(), Definition: i.GetDefinition()})
	}
	locations := make(map[string][]*pb.Location, len(s.Locations))
	for name, l := range s.Locations {
		for _, x := range l.GetLocations() {
			if x.GetSourceIndex() < 0 || int(x.GetSourceIndex()) >= len(files) {
				return nil, nil, fmt.Errorf("invalid LLB definition: failed to find source map with index %d", x.GetSourceIndex())
			}
		}
		locations[name] = l.GetLocations()
	}
	return locations, files, nil
}

// locate writes the first place of a vertex to its Meta, which has one file.
func (d *decoder) locate(m *solver.Meta, at []*pb.Location) {
	for _, l := range at {
		f := &d.files[l.GetSourceIndex()]
		if m.File != "" && m.File != f.Name {
			continue
		}
		for _, r := range l.GetRanges() {
			start := int(r.GetStart().GetLine())
			if start < 1 {
				continue // nothing that could be shown
			}
			end := max(start, int(r.GetEnd().GetLine())) // which a client may leave out
			m.File, m.Text = f.Name, f.Text
			m.Source = append(m.Source, solver.Range{Start: start, End: end})
		}
	}
}

// A Place is where in a file of the user's an operation comes from.
type Place struct {
	File   *File
	Ranges []*pb.Range // lines and characters, as the client has said; they may be missing
}

// Places returns where the operation that v was decoded from comes from, as the definition says and in its order; nil if v was
// not decoded. What solver.Meta has of it is lines of one file. It must not be changed.
func Places(v *solver.Vertex) []Place {
	o := originOf(v)
	if o == nil {
		return nil
	}
	var out []Place
	for _, l := range o.locations {
		out = append(out, Place{&o.files[l.GetSourceIndex()], l.GetRanges()})
	}
	return out
}

// places returns where a vertex that was not decoded comes from. index numbers files.
func places(v *solver.Vertex, index func(File) int32) []*pb.Location {
	m := v.Meta()
	if len(m.Source) == 0 {
		return nil
	}
	l := &pb.Location{SourceIndex: index(File{Name: m.File, Text: m.Text})}
	for _, r := range m.Source {
		l.Ranges = append(l.Ranges, &pb.Range{
			Start: &pb.Position{Line: int32(r.Start)}, End: &pb.Position{Line: int32(r.End)},
		})
	}
	return []*pb.Location{l}
}
