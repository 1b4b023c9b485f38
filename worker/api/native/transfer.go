package native

import (
	"context"
	"slices"
	"sync"

	"github.com/distribution/reference"

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

// do sends something else.
func (x *exchange) do(send func() error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return send()
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
	start := first.GetStart()
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
		opt := x.options(start)
		pull := func(ref string) error {
			res, err := s.opt.Images.Pull(ctx, ref, opt)
			if err != nil {
				return err
			}
			out := &boxbuildv1.PullOutput{Output: &boxbuildv1.PullOutput_Result{Result: &boxbuildv1.Pulled{
				Name: res.Name, Digest: res.Digest.String(), Id: res.ID.String(), Updated: res.Updated,
			}}}
			return x.do(func() error { return stream.Send(out) })
		}
		if !start.GetAllTags() {
			return pull(start.GetRef())
		}
		repo, err := repository(start.GetRef())
		if err != nil {
			return err
		}
		tags, err := s.opt.Images.Tags(ctx, start.GetRef(), opt)
		if err != nil {
			return err
		}
		for _, tag := range tags {
			begins := &boxbuildv1.PullOutput_Begins{Begins: repo.Name() + ":" + tag}
			if err := x.do(func() error { return stream.Send(&boxbuildv1.PullOutput{Output: begins}) }); err != nil {
				return err
			}
			if err := pull(begins.Begins); err != nil {
				return err
			}
		}
		return nil
	})
}

// repository reads a reference that has neither tag nor digest.
func repository(ref string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, usage("invalid reference %q: %v", ref, err)
	}
	if !reference.IsNameOnly(named) {
		return nil, usage("tag can't be used with --all-tags/-a")
	}
	return named, nil
}

// Push implements the service.
func (s *Server) Push(stream boxbuildv1.Images_PushServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
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
		names := []string{start.GetRef()}
		if start.GetAllTags() {
			if names, err = s.namesIn(ctx, start.GetRef()); err != nil {
				return err
			}
		}
		for _, name := range names {
			desc, err := s.opt.Images.Push(ctx, name, x.options(start))
			if err != nil {
				return err
			}
			out := &boxbuildv1.PushOutput{Output: &boxbuildv1.PushOutput_Result{Result: &boxbuildv1.Pushed{
				MediaType: desc.MediaType, Digest: desc.Digest.String(), Size: desc.Size, Name: name,
			}}}
			if err := x.do(func() error { return stream.Send(out) }); err != nil {
				return err
			}
		}
		return nil
	})
}

// namesIn returns the names that images of the store have in a repository, sorted.
func (s *Server) namesIn(ctx context.Context, ref string) ([]string, error) {
	repo, err := repository(ref)
	if err != nil {
		return nil, err
	}
	list, err := s.opt.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, img := range list {
		for _, n := range img.Names {
			if named, err := reference.ParseNormalizedNamed(n); err == nil && named.Name() == repo.Name() {
				names = append(names, n)
			}
		}
	}
	if names == nil {
		return nil, failure(boxbuildv1.ErrorKind_ERROR_KIND_NOT_FOUND,
			"An image does not exist locally with the tag: %s", reference.FamiliarName(repo))
	}
	slices.Sort(names)
	return slices.Compact(names), nil // a name for several platforms is one
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
		opt := worker.LoadOptions{Platforms: platforms(first.GetStart().GetPlatforms())}
		if !first.GetStart().GetQuiet() {
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
		return x.do(func() error {
			return stream.Send(&boxbuildv1.LoadOutput{Output: &boxbuildv1.LoadOutput_Loaded{Loaded: out}})
		})
	})
}

// Save implements the service.
func (s *Server) Save(req *boxbuildv1.SaveRequest, stream boxbuildv1.Images_SaveServer) error {
	return s.perform(stream.Context(), "Save", func(ctx context.Context) error {
		if err := s.opt.Images.Save(ctx, req.GetRefs(), platforms(req.GetPlatforms()), chunkWriter{stream.Send}); err != nil {
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
