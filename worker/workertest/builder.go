// Package workertest has a builder and images that work in memory, for tests of what stands on package worker: the
// services and the command line.
//
// The Builder understands Dockerfiles of one stage whose instructions are a play of their own (see run): they print, warn,
// fail, wait, and show what the request said. The Images are real in all that docker shows of images, but have no files.
package workertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// A Builder implements worker.Builder. It is safe for concurrent use.
type Builder struct {
	Images *Images

	mu   sync.Mutex // guards done
	done map[solver.Key]bool
}

// instruction is the operation of a line.
type instruction string

// WriteKey implements solver.Op.
func (i instruction) WriteKey(h *solver.Hasher) { h.Version("line", 1); h.Str("text", string(i)) }

func (i instruction) String() string { return string(i) }

// A performance is one build.
type performance struct {
	builder *Builder
	req     *worker.BuildRequest
	events  func(solver.Event)
	text    []byte
	config  frontend.ImageConfig
}

// Build implements worker.Builder.
func (b *Builder) Build(
	ctx context.Context, req *worker.BuildRequest, events func(solver.Event),
) (*worker.BuildResult, error) {
	p := &performance{builder: b, req: req, events: events}
	if req.Call != frontend.Build {
		return p.inspect(ctx)
	}
	if err := p.read(ctx); err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSpace(string(p.text)), "\n")
	var last *solver.Vertex
	vertices := make([]*solver.Vertex, len(lines))
	for i, line := range lines {
		var inputs []solver.Input
		if last != nil {
			inputs = []solver.Input{{Vertex: last}}
		}
		last = solver.NewVertex(instruction(line), inputs, solver.Meta{
			Name: fmt.Sprintf("[%d/%d] %s", i+1, len(lines), line),
			File: "Dockerfile", Source: []solver.Range{{Start: i + 1, End: i + 1}},
		})
		vertices[i] = last
		p.event(solver.Event{Kind: solver.Declared, Vertex: last})
	}
	for i, v := range vertices {
		if err := p.step(ctx, v, lines[i]); err != nil {
			return nil, err
		}
	}
	return p.export(ctx)
}

// read reads the Dockerfile.
func (p *performance) read(ctx context.Context) error {
	f := &p.req.Frontend
	if f.Text != nil {
		p.text = f.Text
		return nil
	}
	if get, ok := f.Context.(*op.HTTP); ok && f.Dockerfile == f.Context {
		text, err := p.fetched(ctx, get, cmpOr(f.Filename, "Dockerfile"))
		p.text = text
		return err
	}
	local, ok := f.Dockerfile.(*op.Local)
	if !ok {
		return &frontend.UsageError{Message: "the Dockerfile is not in a directory"}
	}
	text, err := p.file(ctx, local.Name, cmpOr(f.Filename, "Dockerfile"))
	p.text = text
	return err
}

func cmpOr(s, or string) string {
	if s != "" {
		return s
	}
	return or
}

func (p *performance) event(ev solver.Event) {
	ev.Time = time.Now()
	p.events(ev)
}

// step performs one line, unless an earlier build has.
func (p *performance) step(ctx context.Context, v *solver.Vertex, line string) error {
	word, rest, _ := strings.Cut(line, " ")
	b := p.builder
	b.mu.Lock()
	cached := b.done[v.Recipe()] && !p.req.Frontend.NoCache && word == "RUN"
	b.mu.Unlock()
	if cached {
		p.event(solver.Event{Kind: solver.Cached, Vertex: v, Key: v.Recipe(), Hit: solver.RecipeHit})
		return nil
	}
	p.event(solver.Event{Kind: solver.Started, Vertex: v, Key: v.Recipe()})
	err := p.run(ctx, v, word, rest)
	if err == nil {
		p.event(solver.Event{Kind: solver.Done, Vertex: v})
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.done == nil {
			b.done = map[solver.Key]bool{}
		}
		b.done[v.Recipe()] = true
		return nil
	}
	if ctx.Err() != nil {
		p.event(solver.Event{Kind: solver.Canceled, Vertex: v})
		return fmt.Errorf("building: %w", context.Cause(ctx))
	}
	p.event(solver.Event{Kind: solver.Failed, Vertex: v, Err: err})
	return &frontend.SourceError{
		File: "Dockerfile", Text: p.text, Ranges: v.Meta().Source, Err: &solver.VertexError{Vertex: v, Err: err},
	}
}

// run performs an instruction: RUN echo, exit N, sleep, pipe PATH, warn, progress, flood N, credentials HOST, file DIR NAME,
// request, panic; FROM of an image that is there; LABEL and CMD; COPY and ENV do nothing.
func (p *performance) run(ctx context.Context, v *solver.Vertex, word, rest string) error {
	switch word {
	case "FROM":
		if rest == "scratch" {
			return nil
		}
		img, err := p.builder.Images.find(rest)
		if errors.Is(err, worker.ErrNotFound) {
			if _, err = p.builder.Images.Pull(ctx, rest, worker.TransferOptions{Keychain: p.req.Keychain}); err == nil {
				img, err = p.builder.Images.find(rest)
			}
		}
		if err == nil {
			p.config = img.Config
		}
		return err
	case "LABEL":
		k, val, _ := strings.Cut(rest, "=")
		if p.config.Config.Labels == nil {
			p.config.Config.Labels = map[string]string{}
		}
		p.config.Config.Labels[k] = val
		return nil
	case "CMD":
		p.config.Config.Cmd = []string{"/bin/sh", "-c", rest}
		return nil
	case "COPY", "ENV":
		return nil
	case "RUN":
		return p.command(ctx, v, rest)
	}
	return fmt.Errorf("unknown instruction: %s", word)
}

func (p *performance) command(ctx context.Context, v *solver.Vertex, line string) error {
	log := func(s string) {
		p.event(solver.Event{Kind: solver.Logged, Vertex: v, Stream: solver.Stdout, Data: []byte(s)})
	}
	words := strings.Fields(line)
	switch words[0] {
	case "echo":
		log(strings.TrimPrefix(line, "echo ") + "\n")
	case "exit":
		code, err := strconv.Atoi(words[1])
		if err != nil {
			return err
		}
		return executor.Exit{Code: code}.Err([]string{"/bin/sh", "-c", line}, 0)
	case "sleep":
		log("sleeping\n")
		<-ctx.Done()
		return context.Cause(ctx)
	case "pipe":
		log("waiting\n")
		return readPipe(ctx, words[1])
	case "warn":
		p.event(solver.Event{Kind: solver.Warned, Vertex: v, Warning: solver.Warning{
			Short: strings.TrimPrefix(line, "warn "), Detail: []string{"a detail"}, URL: "https://example.com/",
			File: "Dockerfile", Source: v.Meta().Source, Quote: "the lines\n",
		}})
	case "progress":
		begin := time.Now()
		for i := range 4 {
			st := solver.Status{ID: "sha256:abc", Action: "downloading", Current: int64(i) << 20, Total: 3 << 20, Started: begin}
			if i == 3 {
				st.Ended = time.Now()
			}
			p.event(solver.Event{Kind: solver.Progress, Vertex: v, Status: st})
		}
	case "flood":
		n, err := strconv.Atoi(words[1])
		if err != nil {
			return err
		}
		for i := range n {
			log(fmt.Sprintf("line %d of the flood\n", i))
		}
	case "credentials":
		reg, err := name.NewRegistry(words[1], name.Insecure)
		if err != nil {
			return err
		}
		auth, err := authn.Resolve(ctx, p.req.Keychain, reg)
		if err != nil {
			return err
		}
		conf, err := auth.Authorization()
		if err != nil {
			return err
		}
		log("user of " + words[1] + ": " + strconv.Quote(conf.Username) + "\n")
	case "file":
		text, err := p.file(ctx, words[1], words[2])
		if err != nil {
			return err
		}
		log(string(text))
	case "request":
		text, err := json.Marshal(p.req.Frontend)
		if err != nil {
			return err
		}
		log(string(text) + "\n")
	case "panic":
		panic("a play")
	default:
		return executor.Exit{Code: 127}.Err([]string{"/bin/sh", "-c", line}, 0)
	}
	return nil
}

// readPipe waits until somebody has written to a named pipe.
func readPipe(ctx context.Context, path string) error {
	// Opened for both, it is there at once, and what reads it can be told to stop.
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
	_, err = f.Read(make([]byte, 1))
	return err
}

// file reads a file of one of the client's directories.
func (p *performance) file(ctx context.Context, dir, file string) ([]byte, error) {
	src, err := p.req.Sources.Directory(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	tree, err := src.Tree(ctx, selectAll)
	if err != nil {
		return nil, err
	}
	r, err := tree.Open(ctx, "/"+file)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// export makes the image and writes the outputs.
func (p *performance) export(ctx context.Context) (*worker.BuildResult, error) {
	if p.config.Config.Labels == nil && len(p.req.Frontend.Labels) > 0 {
		p.config.Config.Labels = map[string]string{}
	}
	for k, val := range p.req.Frontend.Labels {
		p.config.Config.Labels[k] = val
	}
	res := &worker.BuildResult{Metadata: map[string]string{}}
	for _, out := range p.req.Outputs {
		switch out.Type {
		case worker.OutputImage:
			img := p.builder.Images.add(&p.config, p.text)
			for _, tag := range p.req.Tags {
				if err := p.builder.Images.Tag(ctx, img.ID.String(), tag); err != nil {
					return nil, err
				}
				if out.Push {
					if _, err := p.builder.Images.Push(ctx, tag, worker.TransferOptions{Keychain: p.req.Keychain}); err != nil {
						return nil, err
					}
				}
			}
			res.Images = append(res.Images, worker.BuiltImage{
				Platform: p.req.Frontend.Default, ID: img.ID, Names: slices.Clone(p.req.Tags),
			})
			res.Metadata["containerimage.config.digest"] = img.ID.String()
			res.Metadata["containerimage.descriptor"] = "eyJzaXplIjoxfQ==" // {"size":1}
		case worker.OutputNone:
		default:
			if err := p.write(out); err != nil {
				return nil, err
			}
			res.Metadata["containerimage.digest"] = digest.FromBytes(p.text).String()
		}
	}
	return res, nil
}
