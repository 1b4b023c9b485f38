package records

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/progress"
	"github.com/boxbuild/boxbuild/worker/history"
)

// bundleMax is how many bytes of output, about, are one message of a log blob; a client takes 16 MiB at once.
const bundleMax = 256 << 10

// writeLogs writes what has happened in a build as BuildKit keeps it: messages of the Status call, each after its length
// in four bytes, the lowest first.
func (s *Server) writeLogs(ctx context.Context, rec *history.Record, w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	teller := progress.New()
	pending := &controlapi.StatusResponse{}
	size, count := 0, 0
	flush := func(m *controlapi.StatusResponse) error {
		b, err := proto.Marshal(m)
		if err != nil || len(b) == 0 {
			return err
		}
		if err := binary.Write(out, binary.LittleEndian, uint32(len(b))); err != nil {
			return err
		}
		_, err = out.Write(b)
		return err
	}
	err := s.opt.History.Read(ctx, rec.ID, history.ReadOptions{}, func(ev solver.Event) error {
		teller.Tell(pending, &ev)
		size += len(ev.Data)
		if count++; size < bundleMax && count < 1000 {
			return nil
		}
		err := flush(pending)
		pending, size, count = &controlapi.StatusResponse{}, 0, 0
		return err
	})
	if err != nil {
		return err
	}
	if err := flush(pending); err != nil {
		return err
	}
	if err := flush(teller.Rest(rec.Ended)); err != nil {
		return err
	}
	return out.Flush()
}
