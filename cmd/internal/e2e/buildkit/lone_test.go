package buildkit

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// A loner is a client in a process of its own, which is there to be killed. It goes to a phase of a build, says so, and
// stays there.
type loner struct {
	c *client.Client
	loneArgs
	once sync.Once
}

// loneArgs are what a loner is told, in its environment.
type loneArgs struct {
	phase, addr, marker, registry, dir string
}

func (a loneArgs) env() []string {
	return []string{"LONE_PHASE=" + a.phase, "LONE_ADDR=" + a.addr, "LONE_MARKER=" + a.marker, "LONE_REGISTRY=" + a.registry, "LONE_DIR=" + a.dir}
}

// lone is the main function of a loner's process.
func lone() error {
	l := &loner{loneArgs: loneArgs{
		os.Getenv("LONE_PHASE"), os.Getenv("LONE_ADDR"), os.Getenv("LONE_MARKER"), os.Getenv("LONE_REGISTRY"), os.Getenv("LONE_DIR"),
	}}
	// A client that hangs is found out within a second, and not after half a minute.
	hasty := func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
		return next(metadata.AppendToOutgoingContext(ctx, "x-buildkit-session-health-custom-timeout", "1000"), d, cc, method, o...)
	}
	ctx := context.Background()
	var err error
	if l.c, err = client.New(ctx, l.addr, client.WithGRPCDialOption(grpc.WithChainStreamInterceptor(hasty))); err != nil {
		return err
	}
	return phases[l.phase](ctx, l)
}

// ready says that the phase has been reached.
func (l *loner) ready() { l.once.Do(func() { fmt.Println("ready") }) }

// stay is ready for ever.
func (l *loner) stay() {
	l.ready()
	select {}
}

// stuck is an output or a file that comes to no end.
type stuck struct{ l *loner }

func (s stuck) Write([]byte) (int, error) { s.l.stay(); return 0, nil }
func (s stuck) Read([]byte) (int, error)  { s.l.stay(); return 0, io.EOF }
func (stuck) Close() error                { return nil }

// stuckFS is a directory whose files cannot be read.
type stuckFS struct {
	fsutil.FS
	l *loner
}

func (f stuckFS) Open(string) (io.ReadCloser, error) { return stuck{f.l}, nil }

// build builds a Dockerfile. It is ready when a step has said so.
func (l *loner) build(ctx context.Context, text string, change func(*client.SolveOpt)) error {
	dir, err := os.MkdirTemp(l.dir, "context")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		return err
	}
	tree, err := fsutil.NewFS(dir)
	if err != nil {
		return err
	}
	opt := client.SolveOpt{
		Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{}, Ref: l.phase,
		LocalMounts: map[string]fsutil.FS{"context": tree, "dockerfile": tree},
	}
	if change != nil {
		change(&opt)
	}
	_, err = l.c.Solve(ctx, nil, opt, l.told())
	return err
}

// told takes what is told of a build. The step that says ready is where the loner wanted to be.
func (l *loner) told() chan *client.SolveStatus {
	ch := make(chan *client.SolveStatus)
	go func() {
		for s := range ch {
			for _, log := range s.Logs {
				if strings.Contains(string(log.Data), "ready") {
					l.ready()
				}
			}
		}
	}()
	return ch
}

// run is a Dockerfile with a step that comes to no end.
func (l *loner) run(flags string) string {
	return fmt.Sprintf("FROM busybox\nRUN %s echo ready; (setsid sleep %s &); sleep %s # %s\n", flags, l.marker, l.marker, l.phase)
}

// large is a Dockerfile with a result that fits into no buffer.
const large = "FROM busybox\nRUN dd if=/dev/urandom of=/large bs=1M count=40\n"

// to returns a change that has the build's output never end.
func (l *loner) to(kind string) func(*client.SolveOpt) {
	return func(o *client.SolveOpt) {
		o.Exports = []client.ExportEntry{{Type: kind, Output: func(map[string]string) (io.WriteCloser, error) { return stuck{l}, nil }}}
	}
}

// phases are where a client may be when it is killed.
var phases = map[string]func(context.Context, *loner) error{
	"no session": func(ctx context.Context, l *loner) error {
		l.ready()
		_, err := l.c.ControlClient().Solve(ctx, &controlapi.SolveRequest{Ref: l.phase, Frontend: "dockerfile.v0", Session: "nobody"})
		return err
	},
	"context": func(ctx context.Context, l *loner) error {
		return l.build(ctx, "FROM busybox\nCOPY . /\n", func(o *client.SolveOpt) {
			o.LocalMounts["context"] = stuckFS{o.LocalMounts["context"], l}
		})
	},
	"resolve": func(ctx context.Context, l *loner) error { return l.build(ctx, "FROM "+l.registry+"/slow:1\n", nil) },
	"run":     func(ctx context.Context, l *loner) error { return l.build(ctx, l.run(""), nil) },
	"shared":  func(ctx context.Context, l *loner) error { return l.build(ctx, shared(l.marker), nil) },
	"secret": func(ctx context.Context, l *loner) error {
		agent, err := l.agent()
		if err != nil {
			return err
		}
		return l.build(ctx, l.run("--mount=type=secret,id=s,required --mount=type=ssh,required cat /run/secrets/s; nc local:$SSH_AUTH_SOCK & "), func(o *client.SolveOpt) {
			o.Session = []session.Attachable{secretsprovider.FromMap(map[string][]byte{"s": []byte("x")}), agent}
		})
	},
	"bridge": func(ctx context.Context, l *loner) error {
		_, err := l.c.Build(ctx, client.SolveOpt{Ref: l.phase}, "", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
			_, err := solved(ctx, c, shell(llb.Image("busybox"), "echo ready; sleep "+l.marker), true)
			return nil, err
		}, l.told())
		return err
	},
	"exec": func(ctx context.Context, l *loner) error {
		_, err := l.c.Build(ctx, client.SolveOpt{Ref: l.phase}, "", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
			ref, err := solved(ctx, c, llb.Image("busybox"), false)
			if err != nil {
				return nil, err
			}
			ctr, err := c.NewContainer(ctx, gateway.NewContainerRequest{Mounts: []gateway.Mount{{Dest: "/", Ref: ref, MountType: pb.MountType_BIND}}})
			if err != nil {
				return nil, err
			}
			in, _ := io.Pipe()
			r, w := io.Pipe()
			p, err := ctr.Start(ctx, gateway.StartRequest{
				Args: []string{"sh", "-c", "echo ready; cat; sleep " + l.marker}, Stdin: in, Stdout: w,
			})
			if err != nil {
				return nil, err
			}
			wait(r, "ready")
			l.ready()
			return nil, p.Wait()
		}, nil)
		return err
	},
	"tar":    func(ctx context.Context, l *loner) error { return l.build(ctx, large, l.to(client.ExporterTar)) },
	"oci":    func(ctx context.Context, l *loner) error { return l.build(ctx, large, l.to(client.ExporterOCI)) },
	"docker": func(ctx context.Context, l *loner) error { return l.build(ctx, large, l.to(client.ExporterDocker)) },
	"local": func(ctx context.Context, l *loner) error {
		dest := filepath.Join(l.dir, "dest")
		go func() {
			for { // the first file is enough
				if found, _ := filepath.Glob(dest + "/*"); len(found) > 0 {
					l.ready()
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		return l.build(ctx, large, func(o *client.SolveOpt) {
			o.Exports = []client.ExportEntry{{Type: client.ExporterLocal, OutputDir: dest}}
		})
	},
	"push": func(ctx context.Context, l *loner) error {
		return l.build(ctx, "FROM busybox\nRUN echo > /pushed\n", func(o *client.SolveOpt) {
			o.Exports = []client.ExportEntry{{Type: client.ExporterImage, Attrs: map[string]string{
				"name": l.registry + "/pushed:1", "push": "true",
			}}}
		})
	},
	"status": func(ctx context.Context, l *loner) error {
		s, err := l.c.ControlClient().Status(ctx, &controlapi.StatusRequest{Ref: "watched"})
		if err != nil {
			return err
		}
		if _, err := s.Recv(); err != nil {
			return err
		}
		l.stay()
		return nil
	},
}

// shared is a build that two clients ask for. Its step goes on when it is woken.
func shared(marker string) string {
	return "FROM busybox\nRUN echo ready; sleep 9" + marker + "; echo > /shared\n"
}

// agent serves SSH keys that nobody gets.
func (l *loner) agent() (session.Attachable, error) {
	path := filepath.Join(l.dir, "agent")
	lis, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			if _, err := lis.Accept(); err != nil { // and no answer
				return
			}
		}
	}()
	return sshprovider.NewSSHAgentProvider([]sshprovider.AgentConfig{{Paths: []string{path}}})
}
