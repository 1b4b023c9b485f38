package bksession

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/session/exporter"
	"github.com/moby/buildkit/session/exporter/exporterprovider"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/solver/session"
)

func TestSecrets(t *testing.T) {
	m := New(patient(t))
	s, c := open(t, m, "", secretsprovider.FromMap(map[string][]byte{"token": []byte("hunter2"), "large": bytes.Repeat([]byte("x"), session.MaxSecret+1)}))
	if got, err := s.Secret(t.Context(), "token"); err != nil || string(got) != "hunter2" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := s.Secret(t.Context(), "none"); !errors.Is(err, session.ErrNotFound) || !strings.Contains(err.Error(), "none") {
		t.Errorf("error %v, want ErrNotFound", err)
	}
	if _, err := s.Secret(t.Context(), "large"); err == nil || len(err.Error()) > 1000 {
		t.Errorf("a secret that is too large: error %v", err)
	}
	without, _ := open(t, m, "")
	if _, err := without.Secret(t.Context(), "token"); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("a client without secrets: error %v, want ErrNotFound", err)
	}
	c.gone()
	var lost *LostError
	if _, err := s.Secret(t.Context(), "token"); !errors.As(err, &lost) {
		t.Errorf("after the client has gone: error %v, want a *LostError", err)
	}
}

// echo listens on a socket and sends back what it gets, until it is told that all is sent.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "agent"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

func TestSSH(t *testing.T) {
	p, err := sshprovider.NewSSHAgentProvider([]sshprovider.AgentConfig{{ID: "raw", Paths: []string{echo(t)}, Raw: true}})
	if err != nil {
		t.Fatal(err)
	}
	m := New(patient(t))
	s, c := open(t, m, "", p)
	if err := s.CheckSSH(t.Context(), "raw"); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"", "default", "other"} {
		if err := s.CheckSSH(t.Context(), id); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("agent %q: error %v, want ErrNotFound", id, err)
		}
	}
	conn, err := s.DialSSH(t.Context(), "raw")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("hello agent ", 100_000)
	wrote := make(chan error, 1)
	go func() {
		_, err := io.WriteString(conn, text)
		wrote <- errors.Join(err, conn.CloseWrite())
	}()
	got, err := io.ReadAll(conn)
	if err = errors.Join(err, <-wrote, conn.Close(), conn.Close()); err != nil || string(got) != text {
		t.Errorf("%d bytes came back of %d, error %v", len(got), len(text), err)
	}

	// The client goes while a connection is open.
	if conn, err = s.DialSSH(t.Context(), "raw"); err != nil {
		t.Fatal(err)
	}
	c.gone()
	var lost *LostError
	if _, err := conn.Read(make([]byte, 1)); !errors.As(err, &lost) {
		t.Errorf("error %v, want a *LostError", err)
	}
	if err := s.CheckSSH(t.Context(), "raw"); !errors.As(err, &lost) {
		t.Errorf("error %v, want a *LostError, as nobody has said that there is none", err)
	}
	none, _ := open(t, m, "")
	if _, err := none.DialSSH(t.Context(), "raw"); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("error %v, want ErrNotFound", err)
	}
}

// failing is a reader that fails when it has been read.
type failing struct{ io.Reader }

func (f failing) Read(b []byte) (int, error) {
	n, err := f.Reader.Read(b)
	if errors.Is(err, io.EOF) {
		err = errors.New("the disk is broken")
	}
	return n, err
}

func TestUpload(t *testing.T) {
	up := uploadprovider.New()
	text := strings.Repeat("0123456789", 1_000_000)
	id := func(r io.Reader) string { return strings.TrimPrefix(up.Add(io.NopCloser(r)), "http://"+UploadHost+"/") }
	good, bad := id(strings.NewReader(text)), id(failing{strings.NewReader("some")})
	s, _ := open(t, New(patient(t)), "", up)
	read := func(id string) (string, error) {
		r, err := s.Upload(t.Context(), id)
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(r)
		return string(b), errors.Join(err, r.Close())
	}
	if got, err := read(good); err != nil || got != text {
		t.Errorf("%d bytes of %d, error %v", len(got), len(text), err)
	}
	if _, err := read(good); err == nil {
		t.Error("an upload could be had twice")
	}
	if _, err := read(bad); err == nil || !strings.Contains(err.Error(), "the disk is broken") || !strings.Contains(err.Error(), bad) {
		t.Errorf("error %v, want the client's", err)
	}
}

// An upload that the client does not finish before it goes is an error, not a short file.
func TestUploadLost(t *testing.T) {
	up := uploadprovider.New()
	r, w := io.Pipe()
	defer w.Close()
	id := strings.TrimPrefix(up.Add(r), "http://"+UploadHost+"/")
	s, c := open(t, New(patient(t)), "", up)
	got, err := s.Upload(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if _, err := w.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(got, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	c.gone()
	var lost *LostError
	if _, err := io.ReadAll(got); !errors.As(err, &lost) {
		t.Errorf("error %v, want a *LostError", err)
	}
}

func TestExporters(t *testing.T) {
	var final map[string]string
	p := exporterprovider.New(func(_ context.Context, md map[string][]byte, refs []string) ([]*exporter.ExporterRequest, error) {
		if string(md["k"]) != "v" || !slices.Equal(refs, []string{"r"}) {
			return nil, errors.New("wrong question")
		}
		return []*exporter.ExporterRequest{{Type: "local", Attrs: map[string]string{"a": "b"}}}, nil
	}, exporterprovider.WithFinalizeCallback(func(_ context.Context, r map[string]string) error {
		final = r
		return nil
	}))
	m := New(patient(t))
	s, _ := open(t, m, "", p)
	got, err := s.FindExporters(t.Context(), map[string][]byte{"k": []byte("v")}, []string{"r"})
	if err != nil || len(got) != 1 || got[0].Type != "local" || got[0].Attrs["a"] != "b" {
		t.Errorf("got %v, %v", got, err)
	}
	if err := s.FinalizeExport(t.Context(), map[string]string{"x": "y"}); err != nil || final["x"] != "y" {
		t.Errorf("got %v, %v", final, err)
	}
	if _, err := s.FindExporters(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), "wrong question") {
		t.Errorf("error %v, want the client's", err)
	}
	none, _ := open(t, m, "")
	if got, err := none.FindExporters(t.Context(), nil, nil); err != nil || got != nil {
		t.Errorf("a client without: got %v, %v", got, err)
	}
	for name, half := range map[string]*exporterprovider.Exporter{
		"a client that is only told the end": exporterprovider.New(nil, exporterprovider.WithFinalizeCallback(func(context.Context, map[string]string) error { return nil })),
		"a client that is only asked": exporterprovider.New(func(context.Context, map[string][]byte, []string) ([]*exporter.ExporterRequest, error) {
			return nil, nil
		}),
	} {
		s, _ := open(t, m, "", half)
		if got, err := s.FindExporters(t.Context(), nil, nil); err != nil || len(got) != 0 {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		if err := s.FinalizeExport(t.Context(), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a client says in an error cannot change a terminal, or fill it.
func TestErrorText(t *testing.T) {
	s := scripted(t, New(patient(t)), methodPull, func(grpc.ServerStream) error {
		return errors.New("\x1b[31mred\x00" + strings.Repeat("x", 100_000))
	})
	r, err := s.Upload(t.Context(), "id")
	if err == nil {
		_, err = io.ReadAll(r)
	}
	if err == nil || strings.ContainsAny(err.Error(), "\x1b\x00") || len(err.Error()) > 2*maxErrorText {
		t.Errorf("error %.200q", err)
	}
}
