package bksession

import (
	"context"

	"github.com/boxbuild/boxbuild/proto/filesync"
)

const methodDiffCopy = "/moby.filesync.v1.FileSync/DiffCopy"

// Directory returns the client's directory of that name ("context", "dockerfile", a named context) as a Source. Each Tree
// is one transfer, of what is not here yet. The client applies the selection; whatever else it sends is left out.
func (s *Session) Directory(_ context.Context, name string) (filesync.Source, error) {
	if err := s.need(methodDiffCopy); err != nil {
		return nil, err
	}
	return &source{s: s, name: name}, nil
}
