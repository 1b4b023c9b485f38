package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/cmd/internal/scripts"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker/api/engine"
	"github.com/boxbuild/boxbuild/worker/api/native"
	"github.com/boxbuild/boxbuild/worker/eventlog"
	"github.com/boxbuild/boxbuild/worker/workertest"
)

// Modes of files that tests make do not depend on who runs the tests.
func init() { syscall.Umask(0o022) }

var rewrite = flag.Bool("rewrite", false, "write what the scripts compare with anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"boxbuild": main})
}

// TestScript runs the scripts, each against a daemon of its own whose images and builds are in memory.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Setup:               setUp,
		UpdateScripts:       *rewrite,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":  code,
			"await": await, "onTerminal": onTerminal,
		},
	})
}

// setUp starts the daemon, and makes the environment one in which nothing of the user's is seen. BOXBUILD_ADDR is where
// it listens; at REMOTE_ADDR it does too, but does not know who connects, as over a network.
func setUp(env *testscript.Env) error {
	// The path of a socket is short, and that of a script's directory may not be.
	dir, err := os.MkdirTemp("", "bb")
	if err != nil {
		return err
	}
	env.Defer(func() { _ = os.RemoveAll(dir) })
	store, err := filesync.NewStore(filepath.Join(dir, "store"), 1<<30)
	if err != nil {
		return err
	}
	images := &workertest.Images{
		Registry: map[string]string{
			"docker.io/library/busybox:latest": "busybox", "private.example/app:1": "private",
			"docker.io/team/tool:1": "one", "docker.io/team/tool:2": "two", "docker.io/team/tool:latest": "two",
		},
		Now: func() time.Time { return time.Now().Add(-3 * time.Hour) },
	}
	quiet := slog.New(slog.DiscardHandler)
	services := native.New(native.Options{
		Builder: &workertest.Builder{Images: images}, Images: images, OpenDirectory: workertest.OpenDirectory,
		ReceiveDirectory: func(_ context.Context, s filesync.Stream) (filesync.Source, error) {
			return filesync.Remote(s, store, filesync.RemoteOptions{}), nil
		},
		Platform: op.Platform{OS: "linux", Architecture: "amd64"}, Login: workertest.Login, Log: quiet,
		About: &boxbuildv1.InfoResponse{
			Version: "1.2.3", Revision: "abc", Os: "linux", Architecture: "amd64", GoVersion: "go9", Root: "/root", Kernel: "6.18",
			Snapshotter: "overlay", BackingFilesystem: "extfs", Cgroups: "2", Features: []string{"memory"},
			Security: []string{"name=seccomp,profile=builtin"}, Mirrors: []string{"mirror.example"},
			Insecure: []string{"plain.example"}, Warnings: []string{"something"},
		},
	})
	happened := &eventlog.Log{}
	api := engine.New(engine.Options{
		Images: images, Builder: &workertest.Builder{Images: images}, Events: happened, Volumes: &workertest.Volumes{},
		Containers: &workertest.Containers{Images: images, Events: happened}, Networks: &workertest.Networks{},
		Platform: op.Platform{OS: "linux", Architecture: "amd64"}, Version: "1.2.3", Log: quiet, Login: workertest.Login,
	})
	anonymous := append(native.GRPCOptions(quiet), grpc.Creds(insecure.NewCredentials()))
	for name, options := range map[string][]grpc.ServerOption{
		"BOXBUILD_ADDR": native.GRPCOptions(quiet), "REMOTE_ADDR": anonymous,
	} {
		socket := filepath.Join(dir, name)
		l, err := net.Listen("unix", socket)
		if err != nil {
			return err
		}
		server := grpc.NewServer(options...)
		services.Register(server)
		grpcConns, httpConns := split(l)
		served := make(chan error, 2)
		go func() { served <- server.Serve(grpcConns) }()
		web := &http.Server{Handler: api}
		go func() { served <- web.Serve(httpConns) }()
		env.Defer(func() {
			server.Stop()
			api.Close()
			_ = web.Close()
			for range 2 {
				if err := <-served; err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
					env.T().Log("serving: ", err)
				}
			}
		})
		env.Setenv(name, "unix://"+socket)
	}
	env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, ".docker"))
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("TZ", "UTC")
	at, err := scripts.Refused(env)
	env.Setenv("REFUSED", at)
	return err
}

// split tells connections apart by their first byte, as the daemon does: gRPC begins with the P of PRI, and of HTTP/1.1
// only a method could, which no client here begins with.
func split(l net.Listener) (grpcConns, httpConns net.Listener) {
	done := make(chan struct{})
	end := sync.OnceValue(func() error { close(done); return l.Close() })
	g, h := &branch{l, make(chan net.Conn), done, end}, &branch{l, make(chan net.Conn), done, end}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				_ = end()
				return
			}
			go func() {
				head := make([]byte, 3)
				if _, err := io.ReadFull(conn, head); err != nil {
					_ = conn.Close()
					return
				}
				to := h
				if string(head) == "PRI" {
					to = g
				}
				select {
				case to.conns <- &headed{conn.(*net.UnixConn), head}:
				case <-done:
					_ = conn.Close()
				}
			}()
		}
	}()
	return g, h
}

// A branch is the listener for one kind of connections.
type branch struct {
	net.Listener
	conns chan net.Conn
	done  chan struct{}
	end   func() error
}

func (b *branch) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.done:
		return nil, net.ErrClosed
	}
}

func (b *branch) Close() error { return b.end() }

// A headed connection reads once more what was read from it.
type headed struct {
	*net.UnixConn
	head []byte
}

func (c *headed) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.UnixConn.Read(p)
}

// code runs a command and checks its exit code: code 2 boxbuild build.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: code n command [args]")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("running %v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("%v: exit code %d, want %s", args[1:], got, args[0])
	}
}

// await waits until the daemon has so many builds: await builds 1.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || args[0] != "builds" || neg {
		ts.Fatalf("usage: await builds n")
	}
	addr, err := config.ParseAddress(ts.Getenv("BOXBUILD_ADDR"))
	ts.Check(err)
	conn, err := dial(context.Background(), destination{addr: addr})
	ts.Check(err)
	defer conn.Close()
	for {
		info, err := boxbuildv1.NewSystemClient(conn).Info(context.Background(), &boxbuildv1.InfoRequest{})
		ts.Check(err)
		if fmt.Sprint(info.GetBuilds()) == args[1] {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
