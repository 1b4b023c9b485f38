package bksession

import (
	"context"
	"time"

	"github.com/boxbuild/boxbuild/solver/treehash"
)

// A Part is a tree of an output of files; exporter/local.Part has the same fields.
type Part struct {
	Dir   string // where in the output it goes: "" for the root, or one name such as "linux_amd64"
	Tree  treehash.Tree
	Name  string     // for messages: a platform
	Epoch *time.Time // the modification time that everything gets, if set
}

// SendFiles sends the output of that number as files, all parts in one transfer. The client asks for what it lacks.
func (s *Session) SendFiles(ctx context.Context, exporter int, parts []Part) error {
	if err := s.need(methodSend); err != nil {
		return err
	}
	return s.sendFiles(ctx, exporter, parts)
}

func (s *Session) sendFiles(ctx context.Context, exporter int, parts []Part) error {
	return nil
}
