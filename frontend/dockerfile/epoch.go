package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// epochArg is the argument that clamps times.
const epochArg = "SOURCE_DATE_EPOCH"

// An epoch is SOURCE_DATE_EPOCH, or nil.
type epoch = *time.Time

// resolveEpoch finds what SOURCE_DATE_EPOCH is: a number of seconds, or the time of something that is fetched, which
// "context", a named context or a stage of nothing else names. From then on the argument has the number in its plain form,
// or is not there if the time is not known or the argument is empty.
func (t *translation) resolveEpoch(ctx context.Context) error {
	v, asked := t.req.BuildArgs[epochArg]
	if !asked {
		v, _ = t.globals.Get(epochArg)
	}
	if v == "" {
		return t.setEpoch(asked) // an empty build argument counts as none, so that defaults of ARG apply
	}
	if sec, err := strconv.ParseInt(v, 10, 64); err == nil {
		tm := time.Unix(sec, 0).UTC()
		t.epoch = &tm
		return t.setEpoch(asked)
	}
	src, label, err := t.epochSource(v)
	if err != nil {
		if errors.Is(err, errNoEpoch) && asked {
			err = &frontend.UsageError{Message: err.Error()}
		}
		return err
	}
	if src != nil {
		if t.epoch, err = t.shared.epoch(t, src, label)(ctx); err != nil {
			return err
		}
	}
	return t.setEpoch(asked)
}

// setEpoch puts the epoch in the place of what it was found by.
func (t *translation) setEpoch(asked bool) error {
	if asked {
		req := *t.req
		req.BuildArgs = maps.Clone(req.BuildArgs)
		if delete(req.BuildArgs, epochArg); t.epoch != nil {
			req.BuildArgs[epochArg] = strconv.FormatInt(t.epoch.Unix(), 10)
		}
		t.req = &req
	}
	if _, declared := t.globals.Get(epochArg); !declared {
		return nil
	}
	if t.epoch == nil {
		t.globals.drop(epochArg)
		return nil
	}
	return t.globals.put(epochArg, strconv.FormatInt(t.epoch.Unix(), 10))
}

// errNoEpoch is a value of SOURCE_DATE_EPOCH that means nothing.
var errNoEpoch = errors.New("invalid SOURCE_DATE_EPOCH")

// epochSource returns the source whose time value names, and what finding it is called; nil if it names something that has
// no time, such as a directory.
func (t *translation) epochSource(value string) (op.Source, string, error) {
	if value == "context" {
		return t.contextSource(), "[internal] resolve main build context metadata", nil
	}
	nc, err := t.namedContext(value, nil)
	if err != nil {
		return nil, "", err
	}
	if nc != nil {
		src, err := t.namedSource(nc)
		return src, "[internal] resolve SOURCE_DATE_EPOCH named context " + value, err
	}
	for i := range t.doc.stages {
		if s := &t.doc.stages[i]; strings.EqualFold(s.Name, value) {
			src, err := t.stageSource(s)
			if err != nil {
				return nil, "", at(err, s.Location)
			}
			return src, "[internal] resolve SOURCE_DATE_EPOCH source stage " + s.Name, nil
		}
	}
	return nil, "", fmt.Errorf("%w: %s", errNoEpoch, value)
}

// contextSource returns what the build context is fetched from, pinned; nil for a directory of the client's.
func (t *translation) contextSource() op.Source {
	switch {
	case t.src.fetched == nil:
		return nil
	case t.src.fetched.given:
		return onlySource(t.src.fetched.input)
	}
	for v := t.src.fetched.input.Vertex; ; v = v.Inputs()[0].Vertex {
		switch o := v.Op().(type) {
		case *op.Git:
			return o
		case *op.HTTP:
			return o
		}
		if len(v.Inputs()) == 0 {
			return nil
		}
	}
}

// namedSource returns what a named context is fetched from; nil if it is of no kind that has a time.
func (t *translation) namedSource(nc *namedContext) (op.Source, error) {
	kind, name, _ := strings.Cut(nc.value, ":")
	switch name = strings.TrimPrefix(name, "//"); kind {
	case "input":
		if in := t.req.Inputs[name]; in.Root != nil {
			return onlySource(*in.Root), nil
		}
		return nil, nil
	case "target":
		return t.targetSource(nc, name)
	}
	return nc.dated()
}

// targetSource returns what the stage fetches that a named context is, if that is all there is in it. A stage of more is
// not wrong, as it would be under its own name: to whom gives a target for a context it is a tree like any other.
func (t *translation) targetSource(nc *namedContext, target string) (op.Source, error) {
	var titles []string
	for i := range t.doc.stages {
		s := &t.doc.stages[i]
		if strings.EqualFold(s.Name, target) || strconv.Itoa(i) == target {
			src, _ := t.stageSource(s)
			return src, nil
		}
		if s.Name != "" {
			titles = append(titles, s.Name)
		}
	}
	return nil, &frontend.UsageError{Message: noTarget(nc, target, titles).Error()}
}

// onlySource returns what a tree is made of that is made of one thing; nil if that is no repository or file of a server.
func onlySource(root solver.Input) op.Source {
	sources := map[solver.Key]op.Source{}
	seen := map[*solver.Vertex]bool{}
	todo := []*solver.Vertex{root.Vertex}
	for len(todo) > 0 {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[v] {
			continue
		}
		seen[v] = true
		if src, ok := v.Op().(op.Source); ok {
			sources[v.Recipe()] = src
		}
		for _, in := range v.Inputs() {
			todo = append(todo, in.Vertex)
		}
	}
	if len(sources) != 1 {
		return nil
	}
	for _, src := range sources {
		switch src.(type) {
		case *op.Git, *op.HTTP:
			return src
		}
	}
	return nil
}

// dated returns the source of a named context, if it is of a kind that has a time.
func (nc *namedContext) dated() (op.Source, error) {
	switch classify(nc.value) {
	case urlSource:
		return &op.HTTP{URL: nc.value, Filename: contextFile}, nil
	case gitSource:
		o, err := nc.loadGit()
		if err != nil {
			return nil, err
		}
		return o.tree.src, nil
	case fileSource:
	}
	return nil, nil
}

// stageSource returns what a stage fetches that consists of one ADD, on nothing.
func (t *translation) stageSource(s *instructions.Stage) (op.Source, error) {
	scope := t.globals.clone()
	scope.drop(epochArg)
	base, err := t.word(s.BaseName, scope)
	if err != nil {
		return nil, fmt.Errorf("failed to process source stage base name %q: %w", s.BaseName, err)
	}
	if base.Result != scratch {
		return nil, errors.New("SOURCE_DATE_EPOCH stage must use FROM scratch")
	}
	var src op.Source
	for _, c := range s.Commands {
		switch c := c.(type) {
		case *instructions.ArgCommand:
			if err := t.stageArgs(c, scope); err != nil {
				return nil, err
			}
		case *instructions.AddCommand:
			if src != nil {
				return nil, errors.New("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")
			}
			if src, err = t.addSource(c, scope); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported %s instruction", c.Name())
		}
	}
	if src == nil {
		return nil, errors.New("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")
	}
	return src, nil
}

// stageArgs puts the arguments that an ARG declares into scope.
func (t *translation) stageArgs(c *instructions.ArgCommand, scope *vars) error {
	for _, kv := range c.Args {
		v, ok := t.req.BuildArgs[kv.Key]
		switch {
		case ok:
		case kv.Value == nil:
			continue
		default:
			m, err := t.word(*kv.Value, scope)
			if err != nil {
				return err
			}
			v = m.Result
		}
		if err := scope.put(kv.Key, v); err != nil {
			return err
		}
	}
	return nil
}

// addSource returns what an ADD fetches.
func (t *translation) addSource(c *instructions.AddCommand, scope *vars) (op.Source, error) {
	if len(c.SourceContents) != 0 || len(c.SourcePaths) != 1 {
		return nil, errors.New("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source")
	}
	m, err := t.word(c.SourcePaths[0], scope)
	if err != nil {
		return nil, err
	}
	checksum, err := t.word(c.Checksum, scope)
	if err != nil {
		return nil, err
	}
	switch classify(m.Result) {
	case urlSource:
		get := &op.HTTP{URL: m.Result, Filename: urlFileName(m.Result)}
		if checksum.Result != "" {
			if get.Checksum, err = digest.Parse(checksum.Result); err != nil {
				return nil, err
			}
		}
		return get, nil
	case gitSource:
		ref, err := parseGitRef(m.Result)
		if err != nil {
			return nil, err
		}
		if ref.keepGitDir == nil {
			ref.keepGitDir = c.KeepGitDir
		}
		if checksum.Result != "" {
			ref.checksum = checksum.Result
		}
		return ref.op(), nil
	case fileSource:
	}
	return nil, errors.New("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD")
}

// epoch returns what asks for the time of a source, once for all platforms.
func (s *shared) epoch(t *translation, src op.Source, label string) func(context.Context) (epoch, error) {
	var h solver.Hasher
	src.WriteKey(&h)
	var once sync.Once
	var tm epoch
	var err error
	return first(&s.mu, &s.epochs, h.Sum(), func(ctx context.Context) (epoch, error) {
		once.Do(func() {
			err = t.env.Step(ctx, label, func(ctx context.Context) (err error) {
				tm, err = sourceTime(ctx, t.env, src)
				return err
			})
		})
		return tm, err
	})
}

// sourceTime asks for the time of a source; nil if nobody knows it.
func sourceTime(ctx context.Context, env frontend.Env, src op.Source) (epoch, error) {
	d, ok := env.(frontend.Dater)
	if !ok {
		return nil, nil
	}
	if !src.Pinned() {
		var err error
		if src, err = env.Pin(ctx, src); err != nil {
			return nil, err
		}
	}
	tm, err := d.SourceTime(ctx, src)
	if err != nil || tm == nil {
		return nil, err
	}
	whole := time.Unix(tm.Unix(), 0).UTC()
	return &whole, nil
}
