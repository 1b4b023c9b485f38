package native

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"

	"github.com/boxbuild/boxbuild/frontend/report"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// Build implements the service.
func (s *Server) Build(stream boxbuildv1.Builds_BuildServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return usage("the first message of a build is its start")
	}
	base := stream.Context()
	if start.GetDetach() {
		base = context.WithoutCancel(base)
	}
	parent, end, err := s.begin(base)
	if err != nil {
		return err
	}
	if start.Id == "" {
		start.Id = strings.ToLower(rand.Text())
	}
	if !s.claim(start.GetId()) {
		end()
		return failure(boxbuildv1.ErrorKind_ERROR_KIND_CONFLICT, "build %s is running", start.GetId())
	}
	ctx, cancel := context.WithCancelCause(parent)
	b := &build{server: s, box: newOutbox(), numbers: numbering{}, cancel: cancel, detached: start.GetDetach()}
	b.asker.send = func(q *boxbuildv1.Ask) error {
		return b.box.put(&boxbuildv1.BuildOutput{Output: &boxbuildv1.BuildOutput_Ask{Ask: q}})
	}
	if b.detached {
		b.asker.gone = errDetached
	}
	// The receiver ends with the stream, which ends with this call; gRPC has no way to end it sooner.
	go b.receive(stream)
	done := make(chan error, 1)
	// It is counted among the calls until it ends.
	go func() {
		defer end()
		defer s.unclaim(start.GetId())
		defer cancel(nil)
		defer b.asker.close()
		done <- b.run(ctx, stream, start)
	}()
	var left <-chan struct{}
	if b.detached {
		left = stream.Context().Done()
	}
	select {
	case err := <-done:
		return err
	case <-left:
		return context.Cause(stream.Context())
	}
}

// errDetached is why what a detached build asks of its client fails once that has left.
var errDetached = errors.New("the build is detached, and its client has left")

// A build is one build, while its client is there or detached.
type build struct {
	server   *Server
	box      *outbox
	asker    asker
	numbers  numbering // owned by the goroutine that reports events
	cancel   context.CancelCauseFunc
	detached bool
}

// lost says that the client takes no more, which ends the build unless it is detached.
func (b *build) lost(err error) {
	if !b.detached {
		b.cancel(err)
	}
}

// receive takes what the client says after the start.
func (b *build) receive(stream boxbuildv1.Builds_BuildServer) {
	defer b.asker.close()
	for {
		in, err := stream.Recv()
		if err != nil {
			return // the client has no more to say, or is gone; the latter ends the context too
		}
		switch {
		case in.GetAnswer() != nil:
			b.asker.answer(in.GetAnswer())
		case in.GetCancel() != nil:
			b.cancel(context.Canceled)
		}
	}
}

// run performs the build and reports it to the client.
func (b *build) run(ctx context.Context, stream boxbuildv1.Builds_BuildServer, start *boxbuildv1.BuildRequest) error {
	src := &sources{
		server: b.server, asker: &b.asker, trust: trusted(stream.Context()),
		directories: map[string]*boxbuildv1.Directory{},
	}
	defer src.close()
	defer context.AfterFunc(ctx, src.hangUp)()
	req, err := buildRequest(start, b.server.opt.Platform)
	if err != nil {
		return err
	}
	for _, d := range start.GetDirectories() {
		src.directories[d.GetName()] = d
	}
	req.Sources = src
	keys := newKeychain(&b.asker)
	req.Keychain, req.Explain = keys, keys.explain
	req.Session = &client{asker: &b.asker, channels: &b.server.channels}
	writers := b.outputs(ctx, src.trust, start, req)

	pumped := make(chan error, 1)
	go func() {
		err := b.box.pump(stream.Send)
		if err != nil {
			b.lost(err)
		}
		pumped <- err
	}()
	accept := func() {
		_ = b.box.put(&boxbuildv1.BuildOutput{Output: &boxbuildv1.BuildOutput_Accepted{
			Accepted: &boxbuildv1.BuildAccepted{Id: req.ID},
		}}) // a full outbox is not possible yet, and a client that is gone shows elsewhere
	}
	if b.server.opt.History != nil {
		req.Begun = accept // from then on the client can ask for the build by its ID
	} else {
		accept()
	}
	finished := &boxbuildv1.BuildFinished{}
	var wire *boxbuildv1.BuildResult
	res, err := b.perform(ctx, req)
	if err == nil {
		wire, err = wireResult(res)
	}
	if err != nil {
		finished.Outcome = &boxbuildv1.BuildFinished_Error{Error: wireError(err)}
	} else {
		finished.Outcome = &boxbuildv1.BuildFinished_Result{Result: wire}
	}
	for _, w := range writers {
		w.abort()
	}
	err = b.box.put(&boxbuildv1.BuildOutput{Output: &boxbuildv1.BuildOutput_Finished{Finished: finished}})
	if errors.Is(err, errStalled) {
		return err // ends the stream, and with it the pump
	}
	b.box.close()
	select {
	case err := <-pumped:
		return err
	case <-b.server.late:
		return ErrDraining // likewise
	}
}

// perform runs the build. A panic of the builder's is the error of this build only.
func (b *build) perform(ctx context.Context, req *worker.BuildRequest) (res *worker.BuildResult, err error) {
	defer recovered(b.server.opt.Log, "Build", &err)
	res, err = b.server.opt.Builder.Build(ctx, req, b.event)
	if cause := context.Cause(ctx); err != nil && cause != nil && errors.Is(err, context.Canceled) {
		return nil, cause
	}
	return res, err
}

// event reports ev to the client.
func (b *build) event(ev solver.Event) {
	for _, out := range b.numbers.outputs(&ev) {
		if err := b.box.put(out); err != nil {
			b.lost(err)
			return
		}
	}
}

// outputs sets where the outputs of req go. It returns those that go to the client.
func (b *build) outputs(
	ctx context.Context, trust error, start *boxbuildv1.BuildRequest, req *worker.BuildRequest,
) []*channelWriter {
	var writers []*channelWriter
	for i, out := range start.GetOutputs() {
		dir := out.GetDirectory()
		switch {
		case dir == nil && !out.GetStream():
			continue
		case dir != nil && trust == nil && sameDirectory(dir) == nil:
			req.Outputs[i].Dest.Dir = dir.GetPath()
		default:
			w := newChannelWriter(ctx, &b.asker, &b.server.channels, i)
			writers = append(writers, w)
			req.Outputs[i].Dest.Stream = w
		}
	}
	return writers
}

func wireResult(res *worker.BuildResult) (*boxbuildv1.BuildResult, error) {
	out := &boxbuildv1.BuildResult{Metadata: res.Metadata}
	if res.Report != nil {
		var err error
		if out.Report, err = report.JSON(res.Report); err != nil {
			return nil, err
		}
	}
	for _, img := range res.Images {
		out.Images = append(out.Images, &boxbuildv1.BuiltImage{
			Platform: wirePlatform(img.Platform), Id: img.ID.String(), Names: img.Names,
		})
	}
	return out, nil
}
