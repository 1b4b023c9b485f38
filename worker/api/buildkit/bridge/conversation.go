package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"

	pb "github.com/moby/buildkit/frontend/gateway/pb"
	opspb "github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/failure"
)

// errOver is the cause with which calls end that outlive their build.
var errOver = errors.New("the build is over")

// A conversation is one side of a build that somebody else directs. It implements LLBBridge, all of whose calls are safe
// for concurrent use.
type conversation struct {
	pb.UnimplementedLLBBridgeServer
	b      *Bridge
	ctx    context.Context //nolint:containedctx // the build's: what calls make lasts as long as that, not as a call
	cancel context.CancelCauseFunc
	env    frontend.Env
	req    *frontend.Request
	inputs map[string]*opspb.Definition
	asker  *conversation // whose client has asked the frontend here; nil if that is the build's own

	done  chan struct{} // closed by the first Return
	calls sync.WaitGroup

	mu         sync.Mutex // guards what follows
	over       bool
	refs       map[string]*ref
	containers map[string]*container
	left       map[string]solver.Result // what steps have left that failed, by ID: for containers only
	texts      map[string][]byte        // of the users' files that frontends have translated, by name
	returned   bool
	result     *pb.Result // what was returned, or
	err        error
}

// converse begins a conversation in the build whose context is ctx. It must be ended.
func (b *Bridge) converse(ctx context.Context, req *frontend.Request, env frontend.Env) *conversation {
	c := &conversation{
		b: b, env: env, req: req, done: make(chan struct{}), asker: askerOf(ctx),
		refs: make(map[string]*ref), containers: make(map[string]*container),
	}
	c.ctx, c.cancel = context.WithCancelCause(solver.KeepLeft(ctx))
	return c
}

// end cancels the calls that are under way, waits for them, and gives back what is left.
func (c *conversation) end() {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.cancel(errOver)
	c.calls.Wait()
	c.mu.Lock()
	left := c.containers
	c.containers = nil
	c.mu.Unlock()
	for _, k := range left {
		_ = k.close() // nobody is there to be told
	}
}

// call begins a call: it returns a context with the values of the build, which ends with the call, with the conversation,
// and when finish is called, which must be.
func (c *conversation) call(ctx context.Context) (joined context.Context, finish func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return nil, nil, status.Error(codes.Unavailable, errOver.Error())
	}
	c.calls.Add(1)
	joined, cancel := context.WithCancelCause(c.ctx)
	if ctx.Err() != nil {
		cancel(context.Cause(ctx)) // at once: AfterFunc takes its time
	}
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	return joined, func() {
		stop()
		cancel(nil)
		c.calls.Done()
	}, nil
}

// answer performs a call, and makes of its error what clients understand.
func answer[R any](ctx context.Context, c *conversation, f func(ctx context.Context) (*R, error)) (*R, error) {
	ctx, finish, err := c.call(ctx)
	if err != nil {
		return nil, err
	}
	defer finish()
	out, err := f(ctx)
	if err != nil {
		return nil, failure.Status(c.explain(err))
	}
	return out, nil
}

// A ref is a result that the other side knows by its ID. It is made when that is asked for.
type ref struct {
	in    solver.Input
	image *frontend.Image   // what a frontend says of it; nil for none
	def   *opspb.Definition // as it was given, or nil: then it is encoded

	making chan struct{} // holds a token while it is not known whether it can be made
	err    error         // why it cannot; only whoever has the token writes it
	made   bool          // as err
}

// newRef returns a ref.
func newRef(in solver.Input) *ref {
	r := &ref{in: in, making: make(chan struct{}, 1)}
	r.making <- struct{}{}
	return r
}

// make has the ref made by f, once: that it failed it remembers, unless it was given up.
func (r *ref) make(ctx context.Context, f func(context.Context) error) error {
	select {
	case <-r.making:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { r.making <- struct{}{} }()
	if r.made || r.err != nil {
		return r.err
	}
	err := f(ctx)
	if r.made = err == nil; err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		r.err = err
	}
	return err
}

// add makes a ref known and returns its ID.
func (c *conversation) add(r *ref) string {
	id := newID()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refs[id] = r
	return id
}

// addLeft makes known what a failed step has left, and returns its ID.
func (c *conversation) addLeft(r solver.Result) string {
	id := newID()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == nil {
		c.left = make(map[string]solver.Result)
	}
	c.left[id] = r
	return id
}

// leftBy returns what a failed step has left under ID, or "".
func (c *conversation) leftBy(id string) solver.Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left[id]
}

// ref returns what ID stands for. The empty ID is the empty tree: nil.
func (c *conversation) ref(id string) (*ref, error) {
	if id == "" {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.refs[id]; r != nil {
		return r, nil
	}
	return nil, status.Errorf(codes.NotFound, "no such ref: %s", id)
}

// Ping says what this side can do.
func (c *conversation) Ping(ctx context.Context, _ *pb.PingRequest) (*pb.PongResponse, error) {
	return answer(ctx, c, func(ctx context.Context) (*pb.PongResponse, error) {
		out := &pb.PongResponse{FrontendAPICaps: llb.GatewayCaps(), LLBCaps: llb.Caps()}
		if c.b.opt.Workers != nil {
			out.Workers = c.b.opt.Workers(ctx)
		}
		return out, nil
	})
}

// Inputs returns the trees that whoever started the build has made.
func (c *conversation) Inputs(ctx context.Context, _ *pb.InputsRequest) (*pb.InputsResponse, error) {
	return answer(ctx, c, func(context.Context) (*pb.InputsResponse, error) {
		return &pb.InputsResponse{Definitions: c.inputs}, nil
	})
}

// Warn reports something to the user.
func (c *conversation) Warn(ctx context.Context, in *pb.WarnRequest) (*pb.WarnResponse, error) {
	return answer(ctx, c, func(context.Context) (*pb.WarnResponse, error) {
		w, err := warning(in)
		if err != nil {
			return nil, err
		}
		c.env.Warn(*w)
		return &pb.WarnResponse{}, nil
	})
}

// Return ends the conversation with a result or an error. The first one counts.
func (c *conversation) Return(ctx context.Context, in *pb.ReturnRequest) (*pb.ReturnResponse, error) {
	return answer(ctx, c, func(context.Context) (*pb.ReturnResponse, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case c.returned:
			return nil, errors.New("gateway result is already set")
		case in.GetError() != nil:
			if c.err = failure.Returned(status.FromProto(in.GetError()), c.tellAskerLocked()); c.err == nil {
				return nil, status.Error(codes.InvalidArgument, "gateway return with an error that is none")
			}
		case in.GetResult() != nil:
			for _, id := range refIDs(in.GetResult()) {
				if id != "" && c.refs[id] == nil {
					return nil, status.Errorf(codes.NotFound, "return reference %s not found", id)
				}
			}
			c.result = in.GetResult()
		default:
			return nil, status.Error(codes.InvalidArgument, "gateway return must be either result or err")
		}
		c.returned = true
		close(c.done)
		return &pb.ReturnResponse{}, nil
	})
}

// lacks is the error for an Env that cannot do what is asked for.
func lacks(what string) error { return fmt.Errorf("this builder cannot %s", what) }
