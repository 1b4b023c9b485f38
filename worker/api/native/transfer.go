package native

import (
	"context"
	"sync"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// An exchange is a call on which the daemon sends statuses, asks questions and gets answers. It serialises what the
// goroutines of a transfer send.
type exchange struct {
	asker asker

	mu   sync.Mutex // serialises sends
	send func(st *boxbuildv1.Status, ask *boxbuildv1.Ask) error
}

func newExchange(send func(st *boxbuildv1.Status, ask *boxbuildv1.Ask) error) *exchange {
	x := &exchange{send: send}
	x.asker.send = func(q *boxbuildv1.Ask) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.send(nil, q)
	}
	return x
}

// status reports a status. A client that is gone shows in the context of the call.
func (x *exchange) status(st solver.Status) {
	x.mu.Lock()
	defer x.mu.Unlock()
	_ = x.send(wireStatus(&st), nil)
}

// receive takes answers with recv until it fails, which it does when the call ends.
func (x *exchange) receive(recv func() (*boxbuildv1.Answer, error)) {
	defer x.asker.close()
	for {
		ans, err := recv()
		if err != nil {
			return
		}
		if ans != nil {
			x.asker.answer(ans)
		}
	}
}

func (x *exchange) options(t *boxbuildv1.Transfer) worker.TransferOptions {
	opt := worker.TransferOptions{
		Keychain: newKeychain(&x.asker), Platform: optionalPlatform(t.GetPlatform()), Quiet: t.GetQuiet(),
	}
	if !t.GetQuiet() {
		opt.Progress = x.status
	}
	return opt
}

// Pull implements the service.
func (s *Server) Pull(stream boxbuildv1.Images_PullServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	return s.perform(stream.Context(), "Pull", func(ctx context.Context) error {
		x := newExchange(func(st *boxbuildv1.Status, ask *boxbuildv1.Ask) error {
			if ask != nil {
				return stream.Send(&boxbuildv1.PullOutput{Output: &boxbuildv1.PullOutput_Ask{Ask: ask}})
			}
			return stream.Send(&boxbuildv1.PullOutput{Output: &boxbuildv1.PullOutput_Status{Status: st}})
		})
		// The receiver ends with the call.
		go x.receive(func() (*boxbuildv1.Answer, error) {
			in, err := stream.Recv()
			return in.GetAnswer(), err
		})
		res, err := s.opt.Images.Pull(ctx, first.GetStart().GetRef(), x.options(first.GetStart()))
		if err != nil {
			return err
		}
		return stream.Send(&boxbuildv1.PullOutput{Output: &boxbuildv1.PullOutput_Result{Result: &boxbuildv1.Pulled{
			Name: res.Name, Digest: res.Digest.String(), Id: res.ID.String(), Updated: res.Updated,
		}}})
	})
}

// Push implements the service.
func (s *Server) Push(stream boxbuildv1.Images_PushServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	return s.perform(stream.Context(), "Push", func(ctx context.Context) error {
		x := newExchange(func(st *boxbuildv1.Status, ask *boxbuildv1.Ask) error {
			if ask != nil {
				return stream.Send(&boxbuildv1.PushOutput{Output: &boxbuildv1.PushOutput_Ask{Ask: ask}})
			}
			return stream.Send(&boxbuildv1.PushOutput{Output: &boxbuildv1.PushOutput_Status{Status: st}})
		})
		// The receiver ends with the call.
		go x.receive(func() (*boxbuildv1.Answer, error) {
			in, err := stream.Recv()
			return in.GetAnswer(), err
		})
		desc, err := s.opt.Images.Push(ctx, first.GetStart().GetRef(), x.options(first.GetStart()))
		if err != nil {
			return err
		}
		return stream.Send(&boxbuildv1.PushOutput{Output: &boxbuildv1.PushOutput_Result{Result: &boxbuildv1.Pushed{
			MediaType: desc.MediaType, Digest: desc.Digest.String(), Size: desc.Size,
		}}})
	})
}

// Load implements the service.
func (s *Server) Load(stream boxbuildv1.Images_LoadServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	return s.perform(stream.Context(), "Load", func(ctx context.Context) error {
		x := newExchange(func(st *boxbuildv1.Status, _ *boxbuildv1.Ask) error {
			return stream.Send(&boxbuildv1.LoadOutput{Output: &boxbuildv1.LoadOutput_Status{Status: st}})
		})
		opt := worker.TransferOptions{
			Platform: optionalPlatform(first.GetStart().GetPlatform()), Quiet: first.GetStart().GetQuiet(),
		}
		if !opt.Quiet {
			opt.Progress = x.status
		}
		loaded, err := s.opt.Images.Load(ctx, &dataReader{recv: func() ([]byte, error) {
			in, err := stream.Recv()
			return in.GetData(), err
		}}, opt)
		if err != nil {
			return err
		}
		out := &boxbuildv1.Loaded{}
		for _, l := range loaded {
			out.Images = append(out.Images, &boxbuildv1.LoadedImage{Name: l.Name, Id: l.ID.String()})
		}
		return stream.Send(&boxbuildv1.LoadOutput{Output: &boxbuildv1.LoadOutput_Loaded{Loaded: out}})
	})
}

// Save implements the service.
func (s *Server) Save(req *boxbuildv1.SaveRequest, stream boxbuildv1.Images_SaveServer) error {
	return s.perform(stream.Context(), "Save", func(ctx context.Context) error {
		if err := s.opt.Images.Save(ctx, req.GetRefs(), chunkWriter{stream.Send}); err != nil {
			return err
		}
		return stream.Send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Eof{Eof: true}})
	})
}

// Import implements the service.
func (s *Server) Import(stream boxbuildv1.Images_ImportServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	return s.perform(stream.Context(), "Import", func(ctx context.Context) error {
		start := first.GetStart()
		r := &dataReader{recv: func() ([]byte, error) {
			in, err := stream.Recv()
			return in.GetData(), err
		}}
		id, err := s.opt.Images.Import(ctx, r, worker.ImportOptions{
			Name: start.GetName(), Message: start.GetMessage(), Changes: start.GetChanges(),
			Platform: optionalPlatform(start.GetPlatform()),
		})
		if err != nil {
			return err
		}
		return stream.SendAndClose(&boxbuildv1.ImportResponse{Id: id.String()})
	})
}

// A dataReader reads the data that a client sends.
type dataReader struct {
	recv func() ([]byte, error) // io.EOF at the end
	rest []byte
}

// Read implements io.Reader.
func (r *dataReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		data, err := r.recv()
		if err != nil {
			return 0, err
		}
		r.rest = data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// A chunkWriter sends what is written.
type chunkWriter struct{ send func(*boxbuildv1.Chunk) error }

// Write implements io.Writer.
func (w chunkWriter) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n := min(chunkSize, len(p)-written)
		if err := w.send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Data{Data: p[written : written+n]}}); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}
