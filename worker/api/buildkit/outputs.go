package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"

	controlapi "github.com/moby/buildkit/api/services/control"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"

	"github.com/boxbuild/boxbuild/exporter/local"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/bksession"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/attrs"
	"github.com/boxbuild/boxbuild/worker/builder"
)

// outputs are what the request wants of the result. Without any nothing leaves the cache.
func (b *build) outputs(ctx context.Context, req *worker.BuildRequest) ([]worker.Output, error) {
	var out []worker.Output
	for i, e := range b.in.GetExporters() {
		o, err := b.output(ctx, i, e, req)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	if len(out) == 0 {
		out = append(out, worker.Output{Type: worker.OutputNone})
	}
	return out, nil
}

// A choice is what a client has answered that was asked which outputs it wants.
type choice struct {
	outputs  []worker.Output
	warnings []solver.Warning
	err      error
}

// more are the outputs that the client chooses when it knows what a frontend says of the result. A client that directs the
// build itself has been asked before, while it could still look at the result.
func (b *build) more(ctx context.Context, metadata map[string][]byte) ([]worker.Output, []solver.Warning, error) {
	if b.choice == nil {
		b.choose(ctx, metadata, nil)
	}
	return b.choice.outputs, b.choice.warnings, b.choice.err
}

// choose has the client choose outputs of a result whose trees it knows by the IDs refs. Their places come after those of the
// request.
func (b *build) choose(ctx context.Context, metadata map[string][]byte, refs []string) {
	c := &choice{}
	b.choice = c
	sess, err := b.sess.get(ctx)
	if err != nil {
		c.err = err
		return
	}
	list, err := sess.FindExporters(ctx, metadata, refs)
	if err != nil {
		c.err = err
		return
	}
	said := &worker.BuildRequest{}
	for i, e := range list {
		x := &controlapi.Exporter{Type: e.Type, Attrs: e.Attrs}
		o, err := b.output(ctx, len(b.in.GetExporters())+i, x, said)
		if c.warnings = said.Warnings; err != nil {
			c.outputs, c.err = nil, err
			return
		}
		c.outputs, b.chosen = append(c.outputs, o), append(b.chosen, x)
	}
}

// output is one exporter, which clients know by its place in the request.
func (b *build) output(ctx context.Context, place int, e *controlapi.Exporter, req *worker.BuildRequest) (worker.Output, error) {
	o := worker.Output{Type: worker.OutputType(e.GetType()), Attrs: map[string]string{}, Documented: true}
	for _, k := range slices.Sorted(maps.Keys(e.GetAttrs())) {
		if builder.KnowsAttribute(o.Type, k) {
			o.Attrs[k] = e.GetAttrs()[k]
			continue
		}
		req.Warnings = append(req.Warnings, solver.Warning{
			Short: fmt.Sprintf("the attribute %q of output %s is not known and has no effect", k, e.GetType()),
		})
	}
	// What the build sets for times counts for its outputs, unless they say something of their own. A name of something
	// that has a time is the frontend's to look up, and comes back with the images.
	if v, ok := b.in.GetFrontendAttrs()["build-arg:SOURCE_DATE_EPOCH"]; ok && isEpoch(v) && o.Type != worker.OutputNone {
		if _, set := o.Attrs["source-date-epoch"]; !set {
			o.Attrs["source-date-epoch"] = v
		}
	}
	if err := b.older(&o); err != nil {
		return o, err
	}
	o.Attested = b.attested(&o)
	switch o.Type {
	case worker.OutputImage:
		b.pushed(&o, req)
		return o, nil
	case worker.OutputNone:
		return o, nil
	case worker.OutputOCI, worker.OutputDocker, worker.OutputTar, worker.OutputLocal:
	default:
		return o, &frontend.UsageError{Message: fmt.Sprintf("exporter %q could not be found", e.GetType())}
	}
	if b.sess == nil {
		return o, &frontend.UsageError{Message: fmt.Sprintf("output %s goes to the client, and the request names no session", o.Type)}
	}
	if o.Type == worker.OutputLocal {
		o.Dest.Files = func(ctx context.Context, parts []local.Part) error {
			sess, err := b.sess.get(ctx)
			if err != nil {
				return err
			}
			list := make([]bksession.Part, len(parts))
			for i, p := range parts {
				list[i] = bksession.Part(p)
			}
			return sess.SendFiles(ctx, place, list)
		}
		return o, nil
	}
	if tar, err := strconv.ParseBool(o.Attrs["tar"]); err == nil && !tar && o.Type != worker.OutputTar {
		o.Dest.Blob = b.exportBlob
		return o, nil
	}
	o.Dest.Stream = &lateStream{open: func(md map[string]string) (bksession.OutputStream, error) {
		sess, err := b.sess.get(ctx)
		if err != nil {
			return nil, err
		}
		return sess.SendStream(context.WithoutCancel(ctx), place, md)
	}}
	return o, nil
}

// isEpoch says whether v is a time, or the word that there is none.
func isEpoch(v string) bool {
	_, err := strconv.ParseInt(v, 10, 64)
	return v == "" || err == nil
}

// attested says whether attestations are asked for that BuildKit would put beside the image. One that is for the image only
// it puts there unless the output is an archive, if the output does not say otherwise.
func (b *build) attested(o *worker.Output) bool {
	parsed, err := attrs.Parse(b.in.GetFrontendAttrs())
	if err != nil {
		return false // which the frontend tells
	}
	beside := o.Type == worker.OutputImage
	if v, set := o.Attrs["attestation-inline"]; set {
		yes, err := strconv.ParseBool(v)
		beside = v == "" || err == nil && yes
	}
	for _, kind := range asked(parsed) {
		only, err := strconv.ParseBool(parsed.Attestations[kind]["inline-only"])
		if beside || err != nil || !only {
			return true
		}
	}
	return false
}

// pushed settles what it means that an image is pushed, if it is.
func (b *build) pushed(o *worker.Output, req *worker.BuildRequest) {
	v, asked := o.Attrs["push"]
	if push, err := strconv.ParseBool(v); !asked || v != "" && (err != nil || !push) {
		return
	}
	if _, set := o.Attrs["store"]; !set {
		// Who has an image pushed has it in the registry. Here it would take up the disk, where these clients do not get at it.
		o.Attrs["store"] = "false"
	}
	if o.Attrs["name"] == "" { // which BuildKit does not mind
		o.Attrs["push"] = "false"
		req.Warnings = append(req.Warnings, solver.Warning{
			Short:  "nothing is pushed: the output has no name",
			Detail: []string{"Give the image a name, as in type=image,name=registry.example/app:1,push=true."},
		})
	}
}

// A lateStream is an output stream that is opened with the first byte, so that a build that fails before leaves nothing
// behind at the client. It is not safe for concurrent use.
type lateStream struct {
	once sync.Once
	open func(md map[string]string) (bksession.OutputStream, error)
	md   map[string]string // what the client is told of it
	to   bksession.OutputStream
	err  error
}

// Describe implements worker.Described.
func (w *lateStream) Describe(metadata map[string]string) { w.md = metadata }

func (w *lateStream) start() error {
	w.once.Do(func() { w.to, w.err = w.open(w.md) })
	return w.err
}

// declined returns err, as worker.ErrDeclined if the client has said so: BuildKit's clients do that who have no place for the
// bytes.
func declined(err error) error {
	var said *bksession.CallError
	if errors.As(err, &said) && said.Code == codes.AlreadyExists {
		return fmt.Errorf("%w: %w", worker.ErrDeclined, err)
	}
	return err
}

// Write implements io.Writer.
func (w *lateStream) Write(p []byte) (int, error) {
	if err := w.start(); err != nil {
		return 0, err
	}
	n, err := w.to.Write(p)
	return n, declined(err)
}

// Close says that all is written, and waits until the client has stored it.
func (w *lateStream) Close() error {
	if err := w.start(); err != nil {
		return err
	}
	return declined(w.to.Close())
}

// CloseWithError ends the stream without the client taking it for whole.
func (w *lateStream) CloseWithError(err error) error {
	w.once.Do(func() { w.err = errors.New("the output was given up") })
	if w.to == nil {
		return nil
	}
	return w.to.CloseWithError(err)
}

// exportBlob gives the client a blob of an OCI layout.
func (b *build) exportBlob(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	sess, err := b.sess.get(ctx)
	if err != nil {
		return err
	}
	return sess.ContentStore("export").Write(ctx, desc, r)
}
