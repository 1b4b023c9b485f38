package bksession

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

const (
	methodDiffCopy = "/moby.filesync.v1.FileSync/DiffCopy"

	keyDirName = "dir-name"
	keyInclude = "include-patterns"
	keyExclude = "exclude-patterns"
	keyFollow  = "followpaths"
)

// diffCopyDesc is that of FileSync's and of FileSend's method.
var diffCopyDesc = grpc.StreamDesc{StreamName: "DiffCopy", ClientStreams: true, ServerStreams: true}

// transfers is how often a directory is asked for if a file in it changes while it comes.
const transfers = 3

// Directory returns the client's directory of that name as a Source. Each Tree is one transfer, of what is not here yet.
// The client applies the selection; whatever else it sends is left out.
func (s *Session) Directory(_ context.Context, name string) (filesync.Source, error) {
	if s.ctx.Err() != nil {
		return nil, fmt.Errorf("opening the client's directory %q: %w", printable(name, maxID), context.Cause(s.ctx))
	}
	if err := s.need(methodDiffCopy); err != nil {
		return nil, err
	}
	if s.opt.Store == nil {
		return nil, fmt.Errorf("opening the client's directory %q: there is no store to receive it in", printable(name, maxID))
	}
	return &source{s: s, name: name}, nil
}

// A source is a directory of the client's.
type source struct {
	s    *Session
	name string

	mu   sync.Mutex // guards held
	held []func()   // give back trees
}

// Close implements filesync.Source.
func (d *source) Close() error {
	d.mu.Lock()
	held := d.held
	d.held = nil
	d.mu.Unlock()
	for _, release := range held {
		release()
	}
	return nil
}

// Tree implements filesync.Source.
func (d *source) Tree(ctx context.Context, sel filesync.Selection) (treehash.Tree, error) {
	var after *filesync.Intake
	for n := 1; ; n++ {
		in, err := d.s.opt.Store.Intake(ctx, filesync.IntakeRequest{
			Key: d.key(sel.Hint), Shared: d.s.sharedKey == "", Select: sel, Limits: d.s.opt.Limits, After: after,
		})
		if err != nil {
			return nil, d.fail(err)
		}
		t, err := d.transfer(ctx, sel, in)
		if err = errors.Join(err, in.Close()); err == nil {
			return t, nil
		}
		var changed *treehash.ChangedError
		if n == transfers || !errors.As(err, &changed) {
			return nil, err
		}
		after = in
	}
}

func (d *source) what() string {
	return fmt.Sprintf("receiving the client's directory %q", printable(d.name, maxID))
}

// fail is for errors that are not the stream's.
func (d *source) fail(err error) error {
	return fmt.Errorf("%s (session %s): %w", d.what(), d.s.id, err)
}

// key names the directory from one build to the next. Most hints are only its name again.
func (d *source) key(hint string) string {
	key := fmt.Sprintf("%q %q", d.s.sharedKey, d.name)
	if hint != "" && hint != d.name {
		key += fmt.Sprintf(" %q", hint)
	}
	return key
}

// transfer makes one DiffCopy call, which puts the directory into in.
func (d *source) transfer(ctx context.Context, sel filesync.Selection, in *filesync.Intake) (treehash.Tree, error) {
	bound, cancel := d.s.Bind(ctx)
	defer cancel()
	md := metadata.Pairs(keyDirName, d.name)
	md.Append(keyInclude, sel.Include...)
	md.Append(keyExclude, sel.Exclude...)
	md.Append(keyFollow, sel.Follow...)
	stream, err := d.s.cc.NewStream(metadata.NewOutgoingContext(bound, encodeMetadata(md)), &diffCopyDesc, methodDiffCopy)
	if err != nil {
		return nil, d.s.fail(ctx, d.what(), err)
	}
	r := &receiver{stream: stream, in: in, pending: map[uint32]*filesync.IncomingFile{}, wake: make(chan struct{}, 1)}
	r.count = filesync.Counter(ctx)
	if err := r.run(cancel); err != nil {
		var remote *streamError
		if errors.As(err, &remote) {
			return nil, d.s.fail(ctx, d.what(), remote.error)
		}
		return nil, d.fail(err)
	}
	t, release, err := in.Tree()
	if err != nil {
		return nil, d.fail(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = append(d.held, release)
	return t, nil
}
