package native_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/session"
	"github.com/boxbuild/boxbuild/worker"
	"github.com/boxbuild/boxbuild/worker/api/native"
)

// A builderFunc is a worker.Builder that does nothing but use the client of its build.
type builderFunc func(ctx context.Context, s session.Session) error

func (f builderFunc) Build(ctx context.Context, req *worker.BuildRequest, _ func(solver.Event)) (*worker.BuildResult, error) {
	return &worker.BuildResult{}, f(ctx, req.Session)
}

// serve serves a builder and returns a client of it.
func serve(t *testing.T, b worker.Builder) boxbuildv1.BuildsClient {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	services := native.New(native.Options{Builder: b, Platform: op.Platform{OS: "linux", Architecture: "amd64"}, Log: quiet})
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(native.GRPCOptions(quiet)...)
	services.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return boxbuildv1.NewBuildsClient(conn)
}

// perform asks for a build and answers every question by answer, which returns nil to say nothing. It returns the error
// that the build ends with.
func perform(t *testing.T, client boxbuildv1.BuildsClient, answer func(*boxbuildv1.Ask) *boxbuildv1.Answer) *boxbuildv1.Error {
	t.Helper()
	stream, err := client.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(in *boxbuildv1.BuildInput) {
		if err := stream.Send(in); err != nil {
			t.Error(err)
		}
	}
	send(&boxbuildv1.BuildInput{Input: &boxbuildv1.BuildInput_Start{Start: &boxbuildv1.BuildRequest{
		Frontend: &boxbuildv1.Frontend{Dockerfile: &boxbuildv1.Frontend_Text{Text: []byte("FROM scratch")}},
	}}})
	for {
		out, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if ask := out.GetAsk(); ask != nil {
			if a := answer(ask); a != nil {
				a.Id = ask.GetId()
				send(&boxbuildv1.BuildInput{Input: &boxbuildv1.BuildInput_Answer{Answer: a}})
			}
		}
		if f := out.GetFinished(); f != nil {
			return f.GetError()
		}
	}
}

// TestSecretQuestion checks what a build gets for each answer that a client may give, be it a hostile or an old one.
func TestSecretQuestion(t *testing.T) {
	secret := func(found bool, data []byte) *boxbuildv1.Answer {
		return &boxbuildv1.Answer{Answer: &boxbuildv1.Answer_Secret{Secret: &boxbuildv1.SecretAnswer{Found: found, Data: data}}}
	}
	for name, tc := range map[string]struct {
		answer  *boxbuildv1.Answer
		want    string // the secret
		missing bool
		err     string
	}{
		"found":    {answer: secret(true, []byte("text")), want: "text"},
		"empty":    {answer: secret(true, nil), want: ""},
		"none":     {answer: secret(false, nil), missing: true, err: "secret x: not found"},
		"none but": {answer: secret(false, []byte("text")), missing: true, err: "secret x: not found"},
		"greatest": {answer: secret(true, bytes.Repeat([]byte("x"), session.MaxSecret)), want: strings.Repeat("x", session.MaxSecret)},
		"too big":  {answer: secret(true, bytes.Repeat([]byte("x"), session.MaxSecret+1)), err: "512001 bytes are more than the 512000 allowed"},
		"other":    {answer: &boxbuildv1.Answer{}, missing: true, err: "secret x: not found"},
		"error": {
			answer: &boxbuildv1.Answer{Answer: &boxbuildv1.Answer_Error{Error: &boxbuildv1.Error{Message: "update it"}}},
			err:    "asking the client for secret x: update it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := []byte(nil), errors.New("the builder did not run")
			client := serve(t, builderFunc(func(ctx context.Context, s session.Session) error {
				got, err = s.Secret(ctx, "x")
				return nil
			}))
			if e := perform(t, client, func(ask *boxbuildv1.Ask) *boxbuildv1.Answer {
				if ask.GetSecret().GetId() != "x" {
					t.Errorf("asked for %v", ask)
				}
				return tc.answer
			}); e != nil {
				t.Fatal(e)
			}
			if string(got) != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %.20q, %v, want %.20q, %s", got, err, tc.want, tc.err)
			}
			if errors.Is(err, session.ErrNotFound) != tc.missing {
				t.Errorf("%v is not found: %v, want %v", err, !tc.missing, tc.missing)
			}
		})
	}
}

// TestSSHChannels checks that each connection to an agent is a channel of its own, that several work at once, that bytes and
// the end of writing go both ways, and that closing one ends it at the client too.
func TestSSHChannels(t *testing.T) {
	const conns = 8
	client := serve(t, builderFunc(func(ctx context.Context, s session.Session) error {
		if err := s.CheckSSH(ctx, "other"); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("got %v, want that there is none", err)
		}
		if err := s.CheckSSH(ctx, "up"); err != nil {
			return err
		}
		if _, err := s.DialSSH(ctx, "other"); err == nil || !strings.Contains(err.Error(), "there is no SSH agent other") {
			t.Errorf("got %v, want the client's own words", err)
		}
		var all sync.WaitGroup
		for range conns {
			all.Go(func() {
				c, err := s.DialSSH(ctx, "up")
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				text := strings.Repeat("hello ", 100_000) // more than a message
				go func() {
					_, werr := io.WriteString(c, text)
					if err := errors.Join(werr, c.CloseWrite()); err != nil {
						t.Error(err)
					}
				}()
				if got, err := io.ReadAll(c); err != nil || string(got) != strings.ToUpper(text) {
					t.Errorf("got %d bytes, %v", len(got), err)
				}
			})
		}
		all.Wait()
		return nil
	}))
	var channels sync.WaitGroup
	defer channels.Wait()
	if e := perform(t, client, func(ask *boxbuildv1.Ask) *boxbuildv1.Answer {
		if q := ask.GetSsh(); q != nil {
			return &boxbuildv1.Answer{Answer: &boxbuildv1.Answer_Ssh{Ssh: &boxbuildv1.SSHAnswer{Found: q.GetId() == "up"}}}
		}
		q := ask.GetChannel()
		if q.GetSsh() != "up" {
			return &boxbuildv1.Answer{Answer: &boxbuildv1.Answer_Error{Error: &boxbuildv1.Error{Message: "there is no SSH agent " + q.GetSsh()}}}
		}
		channels.Go(func() { capitals(t, client, q.GetToken()) })
		return nil
	}); e != nil {
		t.Error(e)
	}
}

// capitals serves one channel as a client does: it gives back in capitals what it gets, to the end.
func capitals(t *testing.T, client boxbuildv1.BuildsClient, token string) {
	stream, err := client.Channel(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	send := func(c *boxbuildv1.Chunk) {
		if err := stream.Send(c); err != nil {
			t.Error(err)
		}
	}
	send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Open{Open: token}})
	for {
		chunk, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return // closed in order
		case err != nil:
			t.Error(err)
			return
		case chunk.GetEof():
			send(chunk)
		default:
			send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Data{Data: bytes.ToUpper(chunk.GetData())}})
		}
	}
}

// TestSSHBuildEnds checks that a connection ends with its build, when the client is silent.
func TestSSHBuildEnds(t *testing.T) {
	read := make(chan error, 1)
	client := serve(t, builderFunc(func(ctx context.Context, s session.Session) error {
		c, err := s.DialSSH(ctx, "up")
		if err != nil {
			return err
		}
		go func() {
			_, err := io.ReadAll(c)
			read <- err
		}()
		return c.Close()
	}))
	var silent boxbuildv1.Builds_ChannelClient
	if e := perform(t, client, func(ask *boxbuildv1.Ask) *boxbuildv1.Answer {
		var err error
		if silent, err = client.Channel(t.Context()); err != nil {
			t.Error(err)
			return nil
		}
		if err := silent.Send(&boxbuildv1.Chunk{Chunk: &boxbuildv1.Chunk_Open{Open: ask.GetChannel().GetToken()}}); err != nil {
			t.Error(err)
		}
		return nil
	}); e != nil {
		t.Fatal(e)
	}
	if _, err := silent.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the client sees %v, want the end", err)
	}
	if err := <-read; err == nil {
		t.Error("the connection ended in order, as if the client had said so")
	}
}
