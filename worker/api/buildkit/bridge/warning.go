package bridge

import (
	pb "github.com/moby/buildkit/frontend/gateway/pb"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
)

// warning reads a warning of the client's, all of which comes back in what Status tells.
func warning(in *pb.WarnRequest) (*solver.Warning, error) {
	info := in.GetInfo()
	w := &solver.Warning{
		Short: string(in.GetShort()), URL: in.GetUrl(), Vertex: in.GetDigest(), Level: int(in.GetLevel()),
		File: info.GetFilename(), Language: info.GetLanguage(), Text: info.GetData(),
	}
	for _, d := range in.GetDetail() {
		w.Detail = append(w.Detail, string(d))
	}
	exact, lines := false, len(w.Text) > 0 && len(in.GetRanges()) > 0
	for _, r := range in.GetRanges() {
		from, to := r.GetStart(), r.GetEnd()
		w.Source = append(w.Source, solver.Range{Start: int(from.GetLine()), End: int(to.GetLine())})
		w.Columns = append(w.Columns, solver.Range{Start: int(from.GetCharacter()), End: int(to.GetCharacter())})
		lines = lines && from.GetLine() > 0 && to.GetLine() >= from.GetLine()
		exact = exact || from.GetCharacter() != 0 || to.GetCharacter() != 0
	}
	if !exact {
		w.Columns = nil
	}
	if def := info.GetDefinition(); len(def.GetDef()) > 0 {
		var err error
		if w.Definition, err = marshal(def); err != nil {
			return nil, err
		}
	}
	if lines {
		w.Quote = (&frontend.SourceError{File: w.File, Text: w.Text, Ranges: w.Source}).Quote()
	}
	return w, nil
}
