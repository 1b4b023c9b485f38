package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/exporter"
	"github.com/moby/buildkit/session/grpchijack"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/sshforward"
	"github.com/moby/buildkit/session/upload"
	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"

	_ "github.com/moby/buildkit/session/filesync" // services that clients have
)

// offered are the services of a client that the daemon calls.
var offered = []protoreflect.FullName{
	"moby.filesync.v1.FileSync", "moby.filesync.v1.FileSend", "moby.filesync.v1.Auth", "moby.buildkit.secrets.v1.Secrets",
	"moby.sshforward.v1.SSH", "moby.upload.v1.Upload", "containerd.services.content.v1.Content", "moby.exporter.v1.Exporter",
}

// A hostile client answers as its input says: what is right, something of it changed, something else, an error, or nothing.
type hostile struct {
	w    *world
	t    testing.TB
	data []byte

	mu sync.Mutex // guards n
	n  int        // calls so far, each of which begins elsewhere in data
}

// Register implements session.Attachable.
func (h *hostile) Register(g *grpc.Server) {
	for _, name := range offered {
		svc := service(h.t, name)
		desc := &grpc.ServiceDesc{ServiceName: string(name), HandlerType: (*any)(nil)}
		for i := range svc.Methods().Len() {
			m := svc.Methods().Get(i)
			desc.Streams = append(desc.Streams, grpc.StreamDesc{
				StreamName: string(m.Name()), ServerStreams: true, ClientStreams: true,
				Handler: func(_ any, s grpc.ServerStream) error { return h.answer(s, m) },
			})
		}
		g.RegisterService(desc, nil)
	}
}

// filler returns what one call is answered by.
func (h *hostile) filler() *filler {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n++
	return h.w.filler(h.data[min(len(h.data), h.n*7%64):])
}

// What a call is answered with, one message after the other; the first ones are the likely ones.
const (
	goOn = iota
	goOnChanged
	anything
	hear
	fail
	leave
)

// answer is a call of the daemon's.
func (h *hostile) answer(s grpc.ServerStream, m protoreflect.MethodDescriptor) error {
	f := h.filler()
	good := &honest{s: s, m: m}
	for range 64 {
		action := goOn
		if b := f.next(); b >= 128 {
			action = goOnChanged + int(b)%leave
		}
		out := dynamicpb.NewMessage(m.Output())
		switch action {
		case goOn, goOnChanged:
			in, err := good.next()
			if err != nil {
				return ended(err)
			}
			if in == nil {
				continue // it had to hear something first
			}
			b, err := proto.Marshal(in)
			if err == nil {
				err = proto.Unmarshal(b, out)
			}
			if err != nil {
				return err
			}
			if action == goOnChanged {
				f.message(out, 3)
			}
		case anything:
			f.message(out, 3)
		case hear:
			if err := s.RecvMsg(dynamicpb.NewMessage(m.Input())); err != nil {
				return ended(err)
			}
			continue
		case fail:
			return status.Error(codes.Code(f.next()%20), f.word())
		default:
			return nil
		}
		if err := s.SendMsg(out); err != nil {
			return err
		}
	}
	return nil
}

// ended is nil for the end of a stream.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// An honest client answers one call rightly.
type honest struct {
	s    grpc.ServerStream
	m    protoreflect.MethodDescriptor
	step int
}

// next is the next message of the right answer, nil if something was heard instead, and io.EOF at the end.
func (h *honest) next() (proto.Message, error) {
	h.step++
	switch {
	case h.m.FullName() == "moby.filesync.v1.FileSync.DiffCopy":
		return h.file()
	case h.m.FullName() == "moby.upload.v1.Upload.Pull" && h.step <= 4:
		return &upload.BytesMessage{Data: []byte("uploaded")}, nil
	case h.m.IsStreamingClient():
		in := dynamicpb.NewMessage(h.m.Input())
		return nil, h.s.RecvMsg(in)
	case h.step > 1:
		return nil, io.EOF
	}
	if err := h.s.RecvMsg(dynamicpb.NewMessage(h.m.Input())); err != nil {
		return nil, err
	}
	switch h.m.Name() {
	case "GetSecret":
		return &secrets.GetSecretResponse{Data: []byte("secret")}, nil
	case "Credentials":
		return &auth.CredentialsResponse{Username: "u", Secret: "p"}, nil
	case "FetchToken":
		return &auth.FetchTokenResponse{Token: "t"}, nil
	case "GetTokenAuthority":
		return nil, status.Error(codes.Unavailable, "none")
	case "VerifyTokenAuthority":
		return &auth.VerifyTokenAuthorityResponse{}, nil
	case "CheckAgent":
		return &sshforward.CheckAgentResponse{}, nil
	case "FindExporters":
		return &exporter.FindExportersResponse{}, nil
	default:
		return nil, status.Error(codes.NotFound, "not here")
	}
}

// file sends a directory of one file.
func (h *honest) file() (proto.Message, error) {
	switch h.step {
	case 1:
		return &types.Packet{Type: types.PACKET_STAT, Stat: &types.Stat{Path: "d", Mode: 1<<31 | 0o755, ModTime: 1}}, nil
	case 2:
		return &types.Packet{Type: types.PACKET_STAT, Stat: &types.Stat{Path: "d/f", Mode: 0o644, Size: 4, ModTime: 1}}, nil
	case 3:
		return &types.Packet{Type: types.PACKET_STAT}, nil
	}
	in := new(types.Packet)
	if err := h.s.RecvMsg(in); err != nil {
		return nil, err
	}
	switch in.Type {
	case types.PACKET_REQ:
		if err := h.s.SendMsg(&types.Packet{Type: types.PACKET_DATA, ID: in.ID, Data: []byte("file")}); err != nil {
			return nil, err
		}
		return &types.Packet{Type: types.PACKET_DATA, ID: in.ID}, nil
	case types.PACKET_FIN:
		return &types.Packet{Type: types.PACKET_FIN}, nil
	default:
		return nil, nil //nolint:nilnil // as next says
	}
}

// needy are builds that call what clients offer. Their steps are never cached.
func needy(t testing.TB, name string, reg string) []*controlapi.SolveRequest {
	t.Helper()
	def := func(s llb.State) *pb.Definition {
		d, err := s.Marshal(t.Context(), llb.LinuxAmd64)
		if err != nil {
			t.Fatal(err)
		}
		return d.ToPB()
	}
	base := llb.Image("busybox")
	run := func(opts ...llb.RunOption) *pb.Definition {
		return def(base.Run(append(opts, llb.Shlex("true "+name))...).Root())
	}
	local := llb.Local("context", llb.SharedKeyHint(name))
	dockerfile := def(llb.Scratch().File(llb.Mkfile("Dockerfile", 0o644, []byte(strings.Join([]string{
		"FROM busybox", "COPY . /c", "RUN --mount=type=secret,id=s --mount=type=ssh true " + name,
	}, "\n")))))
	out := []*controlapi.SolveRequest{
		{Definition: def(base.File(llb.Copy(local, "/d/f", "/"+name)))},
		{Definition: run(llb.AddMount("/c", local), llb.AddSecret("/s", llb.SecretID("s")))},
		{Definition: run(llb.AddSSHSocket(llb.SSHID("default")))},
		{Definition: run(llb.AddMount("/c", llb.HTTP("http://buildkit-session/"+name)))},
		{Definition: run(llb.AddMount("/c", llb.OCILayout("x/y@sha256:"+strings.Repeat("0", 64), llb.OCIStore("", "store"))))},
		{Definition: run(llb.AddMount("/c", llb.Image(reg+"/private:1", llb.ResolveModeForcePull)))},
		{Frontend: "dockerfile.v0", FrontendInputs: map[string]*pb.Definition{"dockerfile": dockerfile}},
		{Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{"filename": "d/f"}},
	}
	for _, kind := range []string{"local", "tar", "oci", "docker", "image"} {
		out = append(out, &controlapi.SolveRequest{
			Definition: def(base.File(llb.Mkfile("/"+name, 0o644, nil))),
			Exporters:  []*controlapi.Exporter{{Type: kind}, {Type: "image", Attrs: map[string]string{"name": reg + "/out:" + name, "push": "true"}}},
		})
	}
	out[len(out)-1].EnableSessionExporter = true
	return out
}

// FuzzClient builds for a client whose services answer anything. The build ends, the daemon lives on at rest, and what the
// client calls its files are nowhere but below the root.
func FuzzClient(f *testing.F) {
	w := newWorld(f)
	reg := registrytest.New(registrytest.Behaviour{})
	tokens := &registrytest.TokenServer{Users: map[string]string{"u": "p"}}
	mux := http.NewServeMux()
	mux.Handle("/token", tokens)
	mux.Handle("/", reg)
	addr := registrytest.Start(f, mux)
	reg.Auth = &registrytest.Auth{Tokens: tokens, Realm: "http://" + addr + "/token"}
	reg.PutImage("private", "1", []byte(`{"architecture":"amd64","os":"linux"}`))
	for i := range 24 {
		f.Add(byte(i), noise(i))
		f.Add(byte(i), make([]byte, i))
	}
	n := 0
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		n++
		ctx, cancel := context.WithTimeout(t.Context(), 4*callTime)
		defer cancel()
		api := controlapi.NewControlClient(w.conn)
		sess, err := session.NewSession(ctx, "key")
		if err != nil {
			t.Fatal(err)
		}
		sess.Allow(&hostile{w: w, t: t, data: data})
		var wg sync.WaitGroup
		wg.Go(func() { _ = sess.Run(ctx, grpchijack.Dialer(api)) })
		reqs := needy(t, fmt.Sprint("n", n), addr)
		req := reqs[int(kind)%len(reqs)]
		req.Ref, req.Session = fmt.Sprint("client", n), sess.ID()
		_, _ = api.Solve(ctx, req) // whatever comes of it
		_ = sess.Close()
		cancel()
		wg.Wait()
		w.load(t)
		w.check(t)
	})
}
