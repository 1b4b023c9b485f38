package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/boxbuild/boxbuild/cmd/internal/progress"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/proto/filesync"
)

// A buildStream is the client's side of one build: it shows events and answers questions.
type buildStream struct {
	app      *app
	plan     *buildPlan
	display  *progress.Display
	client   boxbuildv1.BuildsClient
	warnings warnings
	contexts *filesync.Cache // of the directories that the daemon asks for

	stream boxbuildv1.Builds_BuildClient
	mu     sync.Mutex     // serialises sends
	tasks  sync.WaitGroup // answers under way
}

// run performs the build. When ctx ends the build is cancelled, and run waits until the daemon has ended it.
func (s *buildStream) run(ctx context.Context) (*boxbuildv1.BuildResult, error) {
	call, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	dir := ""
	if s.app.cfg.Cache != "" {
		dir = filepath.Join(s.app.cfg.Cache, "contexts")
	}
	s.contexts = filesync.NewCache(dir, 0)
	defer func() { _ = s.contexts.Close() }() // a cache: what could not be written is read again
	defer s.tasks.Wait()
	defer hangUp()
	var err error
	if s.stream, err = s.client.Build(call); err != nil {
		return nil, err
	}
	if err := s.send(&boxbuildv1.BuildInput{Input: &boxbuildv1.BuildInput_Start{Start: s.plan.request}}); err != nil {
		return nil, s.lost(err)
	}
	stop := context.AfterFunc(ctx, func() {
		// If it cannot be sent, the stream is broken and the build is over anyway.
		_ = s.send(&boxbuildv1.BuildInput{Input: &boxbuildv1.BuildInput_Cancel{Cancel: &boxbuildv1.CancelBuild{}}})
	})
	defer stop()
	for {
		out, err := s.stream.Recv()
		if err != nil {
			return nil, s.lost(err)
		}
		switch o := out.GetOutput().(type) {
		case *boxbuildv1.BuildOutput_Event:
			s.warnings.add(o.Event.GetWarning())
			s.display.Event(o.Event)
		case *boxbuildv1.BuildOutput_Ask:
			s.tasks.Go(func() { s.answer(call, o.Ask) })
		case *boxbuildv1.BuildOutput_Finished:
			if e := o.Finished.GetError(); e != nil {
				return nil, &buildError{e}
			}
			return o.Finished.GetResult(), nil
		}
	}
}

// lost returns why the stream broke.
func (s *buildStream) lost(err error) error {
	if errors.Is(err, io.EOF) {
		if _, recvErr := s.stream.Recv(); recvErr != nil {
			err = recvErr
		}
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the daemon ended the build without a result")
	}
	return err
}

func (s *buildStream) send(in *boxbuildv1.BuildInput) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.Send(in)
}

// answer answers a question. A channel is its own answer unless it fails.
func (s *buildStream) answer(ctx context.Context, ask *boxbuildv1.Ask) {
	ans := &boxbuildv1.Answer{Id: ask.GetId()}
	var err error
	switch q := ask.GetQuestion().(type) {
	case *boxbuildv1.Ask_Credentials:
		var cred *boxbuildv1.Credentials
		if cred, err = credentialsFor(q.Credentials.GetRegistry()); err == nil {
			ans.Answer = &boxbuildv1.Answer_Credentials{Credentials: cred}
		}
	case *boxbuildv1.Ask_Secret:
		var secret *boxbuildv1.SecretAnswer
		if secret, err = s.plan.secrets.answer(s.app.env, q.Secret.GetId()); err == nil {
			ans.Answer = &boxbuildv1.Answer_Secret{Secret: secret}
		}
	case *boxbuildv1.Ask_Ssh:
		ans.Answer = &boxbuildv1.Answer_Ssh{Ssh: &boxbuildv1.SSHAnswer{Found: s.plan.ssh[q.Ssh.GetId()] != nil}}
	case *boxbuildv1.Ask_Channel:
		if err = s.channel(ctx, q.Channel); err == nil {
			return
		}
	default:
		err = errors.New("the daemon asks what this client does not know; update it")
	}
	if err != nil {
		ans.Answer = &boxbuildv1.Answer_Error{Error: &boxbuildv1.Error{Message: err.Error()}}
	}
	// If it cannot be sent, the stream is broken, which run sees.
	_ = s.send(&boxbuildv1.BuildInput{Input: &boxbuildv1.BuildInput_Answer{Answer: ans}})
}

// channel opens the channel that q asks for and serves it until it ends.
func (s *buildStream) channel(ctx context.Context, q *boxbuildv1.ChannelQuestion) error {
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	var serve func(boxbuildv1.Builds_ChannelClient) error
	switch what := q.GetWhat().(type) {
	case *boxbuildv1.ChannelQuestion_Output:
		if int(what.Output) >= len(s.plan.outputs) {
			return fmt.Errorf("there is no output %d", what.Output)
		}
		serve = func(stream boxbuildv1.Builds_ChannelClient) error {
			return s.receiveOutput(stream, s.plan.outputs[what.Output])
		}
	case *boxbuildv1.ChannelQuestion_Directory:
		src, err := s.openDirectory(what.Directory)
		if err != nil {
			return err
		}
		defer src.Close()
		serve = func(stream boxbuildv1.Builds_ChannelClient) error {
			return filesync.Serve(stream.Context(), src, messages{stream})
		}
	case *boxbuildv1.ChannelQuestion_Ssh:
		offer := s.plan.ssh[what.Ssh]
		if offer == nil {
			return fmt.Errorf("there is no SSH agent %s", what.Ssh)
		}
		serve = func(stream boxbuildv1.Builds_ChannelClient) error {
			return offer.serve(stream.Context(), newChannelConn(stream, hangUp))
		}
	case *boxbuildv1.ChannelQuestion_Upload:
		if what.Upload != contextUpload || s.plan.upload == nil {
			return fmt.Errorf("there is no file %q to send", what.Upload)
		}
		serve = func(stream boxbuildv1.Builds_ChannelClient) error { return s.upload(stream, s.plan.upload) }
	default:
		return errors.New("the daemon asks for what this client does not have; update it")
	}
	stream, err := s.client.Channel(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Open{Open: q.GetToken()}}); err != nil {
		return err
	}
	if err := serve(stream); err != nil {
		failed := &boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Error{Error: &boxbuildv1.Error{Message: err.Error()}}}
		if err := stream.Send(failed); err != nil {
			return err
		}
	}
	// The daemon has the last word: hanging up first could overtake what was sent.
	for {
		if _, err := stream.Recv(); err != nil {
			return nil
		}
	}
}

// receiveOutput stores an output and confirms it.
func (s *buildStream) receiveOutput(stream boxbuildv1.Builds_ChannelClient, to clientOutput) error {
	if err := to.receive(s.app.stdout, &chunkReader{recv: stream.Recv}); err != nil {
		return err
	}
	return stream.Send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Done{Done: true}})
}

// openDirectory opens a directory that the request named: no other one is the daemon's to ask for.
func (s *buildStream) openDirectory(name string) (filesync.Source, error) {
	for _, d := range s.plan.request.GetDirectories() {
		if d.GetName() == name {
			return filesync.Dir(d.GetPath(), filesync.Options{Cache: s.contexts})
		}
	}
	return nil, fmt.Errorf("there is no directory %q", name)
}

// messages is a channel as package filesync wants it: a chunk is a message.
type messages struct {
	stream boxbuildv1.Builds_ChannelClient
}

// Send implements filesync.Stream.
func (m messages) Send(msg []byte) error {
	return m.stream.Send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Data{Data: msg}})
}

// Recv implements filesync.Stream.
func (m messages) Recv() ([]byte, error) {
	chunk, err := m.stream.Recv()
	return chunk.GetData(), err
}

// A channelConn is a channel as a connection.
type channelConn struct {
	chunkReader
	stream boxbuildv1.Builds_ChannelClient
	hangUp context.CancelFunc

	mu          sync.Mutex // guards what follows
	read, wrote bool       // the direction has ended in order
}

func newChannelConn(stream boxbuildv1.Builds_ChannelClient, hangUp context.CancelFunc) *channelConn {
	return &channelConn{chunkReader: chunkReader{recv: stream.Recv}, stream: stream, hangUp: hangUp}
}

// Read implements io.Reader.
func (c *channelConn) Read(p []byte) (int, error) {
	n, err := c.chunkReader.Read(p)
	if errors.Is(err, io.EOF) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.read = true
	}
	return n, err
}

// Write implements io.Writer.
func (c *channelConn) Write(p []byte) (int, error) {
	// An agent's message is far below what gRPC takes as one; what comes from a copy is 32 KiB.
	if err := c.stream.Send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Data{Data: p}}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite implements session.Conn.
func (c *channelConn) CloseWrite() error {
	c.mu.Lock()
	c.wrote = true
	c.mu.Unlock()
	return c.stream.Send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Eof{Eof: true}})
}

// Close implements session.Conn. A channel that has ended both ways is left for the daemon to close: hanging up could
// overtake what was sent.
func (c *channelConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.read || !c.wrote {
		c.hangUp()
	}
	return nil
}

// A chunkReader reads the bytes of a stream of chunks. Only an eof chunk is its end: a stream that ends without one was
// cut off.
type chunkReader struct {
	recv  func() (*boxbuildv1.Chunk, error)
	rest  []byte
	ended bool
}

// Read implements io.Reader.
func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.ended {
			return 0, io.EOF
		}
		chunk, err := r.recv()
		switch {
		case errors.Is(err, io.EOF):
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		case chunk.GetError() != nil:
			return 0, &boxbuildv1.Failure{Wire: chunk.GetError()}
		}
		r.ended = chunk.GetEof()
		r.rest = chunk.GetData()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
