package buildkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// programDir has the frontend of the tests, once it has been built.
var programDir string

func TestMain(m *testing.M) {
	if os.Getenv("LONE_PHASE") != "" {
		if err := lone(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if programDir != "" {
		_ = os.RemoveAll(programDir)
	}
	os.Exit(code)
}

// program builds the frontend of the tests, once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "frontend")
	if err != nil {
		return "", err
	}
	programDir = dir
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, "frontend"), "./testdata/frontend")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.New(string(out))
	}
	return dir, nil
})

const frontendImage = "localhost/frontend"

// marker is in the command line of every process of the daemon's frontends, and of no other.
func (d *daemon) marker() string { return "of-" + filepath.Base(filepath.Dir(d.root)) }

// frontend puts the image of the tests' frontend into the daemon's store, with these labels.
func (d *daemon) frontend(labels ...string) {
	d.t.Helper()
	dir, err := program()
	if err != nil {
		d.t.Fatal(err)
	}
	file := filepath.Join(d.t.TempDir(), "Dockerfile")
	text := "FROM scratch\nCOPY frontend /\nENTRYPOINT [\"/frontend\", \"" + d.marker() + "\"]\nLABEL " + strings.Join(append(labels, "x=y"), " ") + "\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
	d.boxbuild("build", "-q", "-t", frontendImage, "-f", file, dir)
}

// ask has the frontend do what mode says, and returns the files that it makes.
func (d *daemon) ask(mode string, opt client.SolveOpt) (map[string]string, *progress, error) {
	d.t.Helper()
	dest := d.t.TempDir()
	opt.Exports = []client.ExportEntry{{Type: client.ExporterLocal, OutputDir: dest}}
	if opt.FrontendAttrs == nil {
		opt.FrontendAttrs = map[string]string{}
	}
	if opt.Frontend == "" {
		opt.Frontend, opt.FrontendAttrs["source"] = "gateway.v0", frontendImage
	}
	opt.FrontendAttrs["mode"] = mode
	_, p, err := d.solve(d.t.Context(), opt)
	files := map[string]string{}
	if err == nil {
		list, _ := os.ReadDir(dest)
		for _, e := range list {
			text, err := os.ReadFile(filepath.Join(dest, e.Name()))
			if err != nil {
				d.t.Fatal(err)
			}
			files[e.Name()] = string(text)
		}
	}
	return files, p, err
}

// TestFrontend checks what a frontend in an image is told, and that it can build, also with the Dockerfile frontend and
// with what that has made.
func TestFrontend(t *testing.T) {
	d := start(t)
	d.load()
	d.frontend("moby.buildkit.frontend.network.none=true")
	opt := opts(t, map[string]string{"Dockerfile": "any text"})
	opt.Frontend = ""
	opt.FrontendAttrs["build-arg:a"] = "b=c d"
	files, p, err := d.ask("describe", opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"product=boxbuild\n", "session=true\n", "worker=", "build-arg:a=b=c d\n", "source=" + frontendImage + "\n", "interfaces=1\n",
		"definition\n", `dockerfile="any text"` + "\n",
	} {
		if !strings.Contains(files["said"], want) {
			t.Errorf("%q lacks %q", files["said"], want)
		}
	}
	if got := p.logs["frontend "+frontendImage]; got != "the frontend speaks\n" {
		t.Errorf("the log is %q of %q", got, p.order)
	}
	if files, _, err = d.ask("run", client.SolveOpt{}); err != nil || files["out"] != "ran\n" {
		t.Errorf("got %v, %v", files, err)
	}
	files, _, err = d.ask("forward", client.SolveOpt{})
	if err != nil || files["copied"] != "from the frontend" || files["extra"] != "from the frontend" || files["more"] != "more" {
		t.Errorf("got %v, %v", files, err)
	}
}

// TestFrontendSyntax checks that a Dockerfile can ask for a frontend, whoever's client brings it; and that the file is shown as
// read once, under the digest that the frontend has for it, and no step that is only needed to run the frontend.
func TestFrontendSyntax(t *testing.T) {
	d := start(t)
	d.frontend("moby.buildkit.frontend.caps=moby.buildkit.frontend.inputs")
	const text = "# syntax=" + frontendImage + " with words\nFROM nothing at all\n"
	opt := opts(t, map[string]string{"Dockerfile": text})
	opt.FrontendAttrs["filename"] = "Dockerfile"
	files, p, err := d.ask("describe", opt)
	if err != nil {
		t.Fatal(err)
	}
	const definition = "[internal] load build definition from Dockerfile"
	read := 0
	for _, name := range p.names {
		if name == definition {
			read++
		}
		if strings.Contains(name, "describe the frontend") {
			t.Errorf("there is a step %q", name)
		}
	}
	if read != 1 {
		t.Errorf("the Dockerfile is shown as read %d times: %q", read, p.order)
	}
	for _, want := range []string{"cmdline=" + frontendImage + " with words\n", "filename=Dockerfile\n", "FROM nothing at all"} {
		if !strings.Contains(files["said"], want) {
			t.Errorf("%q lacks %q", files["said"], want)
		}
	}
	dir, dest := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	d.boxbuild("build", "--build-arg", "mode=describe", "--build-arg", "a=1", "-o", dest, dir)
	said, err := os.ReadFile(filepath.Join(dest, "said"))
	if err != nil || !strings.Contains(string(said), "build-arg:a=1\n") || !strings.Contains(string(said), "FROM nothing at all") {
		t.Errorf("got %q, %v", said, err)
	}
}

// TestFrontendFailures checks what is said of a frontend that fails, and of one that may not be run.
func TestFrontendFailures(t *testing.T) {
	d := start(t)
	d.frontend()
	for mode, want := range map[string]string{
		"error":  "I return an error",
		"exit":   "frontend " + frontendImage + " did not complete successfully: exit code: 3: the frontend speaks\nI give up",
		"silent": "no result for incomplete build",
		"loop":   "more than 16 frontends",
	} {
		if _, _, err := d.ask(mode, client.SolveOpt{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", mode, err, want)
		}
	}
	_, _, err := d.ask("run", client.SolveOpt{FrontendAttrs: map[string]string{"frontend.caps": "some.cap+x"}})
	var missing *errdefs.UnsupportedFrontendCapError
	if !errors.As(err, &missing) || missing.Name != "some.cap" {
		t.Errorf("a capability that is not there: %v", err)
	}
	if _, _, err := d.solve(t.Context(), client.SolveOpt{Frontend: "gateway.v0"}); err == nil || !strings.Contains(err.Error(), "no source") {
		t.Errorf("no source: %v", err)
	}
}

// TestFrontendStep checks that a step which has failed for a frontend that the client has asked can be looked into by the
// client: its container sees what the command has left. So it can through two frontends.
func TestFrontendStep(t *testing.T) {
	d := start(t)
	d.load()
	d.frontend()
	for _, mode := range []string{"step", "loop"} {
		opts := map[string]string{"source": frontendImage, "build-arg:mode": mode}
		if mode == "loop" {
			opts["build-arg:then"] = "step"
		}
		_, _, err := d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
			_, err := c.Solve(ctx, gateway.SolveRequest{Frontend: "gateway.v0", FrontendOpt: opts})
			var step *errdefs.SolveError
			if !errors.As(err, &step) || len(step.GetMountIDs()) != 1 || len(step.GetInputIDs()) != 1 {
				t.Errorf("%s: got %v", mode, err)
				return gateway.NewResult(), nil
			}
			for id, script := range map[string]string{step.GetMountIDs()[0]: "cat /left", step.GetInputIDs()[0]: "ls /left || echo left behind"} {
				ctr, err := c.NewContainer(ctx, gateway.NewContainerRequest{Mounts: []gateway.Mount{{Dest: "/", ResultID: id, MountType: pb.MountType_BIND}}})
				if err != nil {
					t.Errorf("%s: %v", mode, err)
					continue
				}
				if out, err := inContainer(ctx, ctr, gateway.StartRequest{Args: []string{"/bin/sh", "-c", script}}); err != nil || out != "left behind\n" {
					t.Errorf("%s: %s: got %q, %v", mode, script, out, err)
				}
				if err := ctr.Release(ctx); err != nil {
					t.Error(err)
				}
			}
			return gateway.NewResult(), nil
		})
		if err != nil {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

// TestFrontendAllowed checks that the daemon's configuration says where frontends may come from.
func TestFrontendAllowed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "d.toml")
	if err := os.WriteFile(file, []byte("[frontend.\"gateway.v0\"]\nallowedRepositories = [\"example.com/fine\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := start(t, "--config", file)
	d.frontend()
	const want = "'" + frontendImage + "' is not an allowed gateway source"
	if _, _, err := d.ask("run", client.SolveOpt{}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
	opt := opts(t, map[string]string{"Dockerfile": "# syntax=" + frontendImage + "\nFROM scratch\n"})
	if _, _, err := d.ask("run", opt); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
}

// TestFrontendCancelled checks that a frontend which goes on for ever ends with its client.
func TestFrontendCancelled(t *testing.T) {
	d := start(t)
	d.frontend()
	ctx, cancel := context.WithCancel(t.Context())
	ch := make(chan *client.SolveStatus)
	go func() {
		for s := range ch {
			for _, l := range s.Logs {
				if strings.Contains(string(l.Data), "the frontend speaks") {
					cancel()
				}
			}
		}
	}()
	_, err := d.c.Solve(ctx, nil, client.SolveOpt{
		Frontend: "gateway.v0", FrontendAttrs: map[string]string{"source": frontendImage, "mode": "hang"},
	}, ch)
	if err == nil {
		t.Error("the build has a result")
	}
	if err := d.settled(d.marker()); err != nil {
		t.Error(err)
	}
}

// TestFrontendPlace checks that an error of a frontend that a Dockerfile asks for, and of one that cannot be had, says where
// it is asked for, to every client; one that has a place of its own keeps that; and that the step which has the frontend's
// files is called by their digest.
func TestFrontendPlace(t *testing.T) {
	d := start(t)
	d.frontend()
	refused := registrytest.Start(t, registrytest.New(registrytest.Behaviour{})) + "/nosuch"
	for _, tc := range []struct {
		image, mode, want string
		line              int32
		quote             string
	}{
		{frontendImage, "error", "I return an error", 2, ">>> # syntax=" + frontendImage},
		{frontendImage, "exit", "I give up", 2, ">>> # syntax=" + frontendImage},
		{frontendImage, "broken", "dockerfile parse error on line 3: unknown instruction: FROBNICATE", 3, ">>> FROBNICATE"},
		{refused, "", "nosuch:latest", 2, ">>> # syntax=" + refused},
	} {
		files := map[string]string{"Dockerfile": "# check=skip=all\n# syntax=" + tc.image + "\nFROBNICATE\n"}
		opt := opts(t, files)
		opt.FrontendAttrs["build-arg:mode"] = tc.mode
		_, p, err := d.solve(t.Context(), opt)
		src := errdefs.Sources(err)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "rpc error") ||
			len(src) != 1 || src[0].Info.Filename != "Dockerfile" || src[0].Ranges[0].Start.Line != tc.line {
			t.Errorf("%s %s: got %v at %v", tc.image, tc.mode, err, src)
		}
		if tc.image == frontendImage && p.has("docker-image://"+frontendImage+":latest@sha256:") == nil {
			t.Errorf("the steps are %q", p.order)
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(files["Dockerfile"]), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(os.Getenv("BOXBUILD_BIN"), "boxbuild"), "build", "--build-arg", "mode="+tc.mode, dir)
		cmd.Env = append(os.Environ(), "BOXBUILD_ADDR="+d.addr())
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), tc.quote) || !strings.Contains(string(out), tc.want) || strings.Contains(string(out), "rpc error") {
			t.Errorf("%s %s: %v\n%s", tc.image, tc.mode, err, out)
		}
	}
	opt := opts(t, small)
	opt.FrontendAttrs["build-arg:BUILDKIT_SYNTAX"] = frontendImage
	opt.FrontendAttrs["build-arg:mode"] = "error"
	const want = "failed with build-arg:BUILDKIT_SYNTAX = " + frontendImage + ": I return an error"
	if _, _, err := d.solve(t.Context(), opt); err == nil || !strings.Contains(err.Error(), want) || len(errdefs.Sources(err)) > 0 {
		t.Errorf("got %v, want %q", err, want)
	}
}
