package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

func (a *app) buildsInspectCommand() *cobra.Command {
	var opt inspectOptions
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] BUILD [BUILD...]", Short: "Display detailed information on one or more builds",
		Args: oneOrMore, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.inspectEach(cmd.Context(), args, opt.format, a.inspectBuild)
		},
	}
	opt.register(cmd)
	return cmd
}

// A buildView is a build as inspect shows it.
type buildView struct {
	ID       string `json:"Id"`
	Name     string
	Status   string
	Created  time.Time
	Ended    *time.Time
	Duration float64 // seconds
	Frontend string
	Attrs    map[string]string
	Outputs  []outputView
	Tags     []string
	Pinned   bool
	Steps    stepCounts
	Error    *errorView
	Result   *resultView
	LogError string     `json:",omitempty"`
	Vertices []stepView // what `builds logs --step` has numbers of
}

type outputView struct {
	Type  string
	Attrs map[string]string
}

type stepCounts struct{ Total, Completed, Cached, Warnings int32 }

type errorView struct {
	Kind     string
	Message  string
	File     string `json:",omitempty"`
	Line     int32  `json:",omitempty"`
	Step     string `json:",omitempty"`
	ExitCode int32  `json:",omitempty"`
}

type resultView struct {
	Images   []imageView
	Metadata map[string]any
}

type imageView struct {
	ID       string `json:"Id"`
	Platform string
	Names    []string
}

type stepView struct {
	Number   uint32
	Name     string
	Status   string // waiting, running, cached, done, error or canceled
	Started  *time.Time
	Ended    *time.Time
	Internal bool `json:",omitempty"`
}

func (a *app) inspectBuild(ctx context.Context, ref string) (*inspected, error) {
	builds, err := a.builds(ctx)
	if err != nil {
		return nil, err
	}
	rec, err := builds.InspectBuild(ctx, &boxbuildv1.InspectBuildRequest{Build: ref})
	if err != nil {
		return nil, err
	}
	view := viewBuild(rec)
	if view.Vertices, err = buildSteps(ctx, builds, rec.GetId()); err != nil {
		return nil, err
	}
	raw, err := plainJSON(view)
	return &inspected{view, raw}, err
}

func viewBuild(b *boxbuildv1.BuildRecord) *buildView {
	v := &buildView{
		ID: b.GetId(), Name: buildName(b), Status: b.GetStatus(), Created: b.GetCreated().AsTime(), Duration: buildTime(b).Seconds(),
		Frontend: b.GetFrontend(), Attrs: b.GetAttrs(), Tags: b.GetTags(), Pinned: b.GetPinned(), LogError: b.GetLogError(),
		Steps: stepCounts{b.GetTotalSteps(), b.GetCompletedSteps(), b.GetCachedSteps(), b.GetWarnings()},
	}
	if t := b.GetEnded(); t != nil {
		at := t.AsTime()
		v.Ended = &at
	}
	for _, o := range b.GetOutputs() {
		v.Outputs = append(v.Outputs, outputView{o.GetType(), o.GetAttrs()})
	}
	if e := b.GetError(); e != nil {
		v.Error = &errorView{
			Kind: errorKind(e.GetKind()), Message: e.GetMessage(), File: e.GetSource().GetFile(),
			Step: e.GetStep().GetName(), ExitCode: e.GetStep().GetExitCode(),
		}
		if r := e.GetSource().GetRanges(); len(r) > 0 {
			v.Error.Line = r[0].GetStart()
		}
	}
	if r := b.GetResult(); r != nil {
		v.Result = &resultView{Metadata: metadata(r.GetMetadata())}
		for _, img := range r.GetImages() {
			p := img.GetPlatform()
			text := p.GetOs() + "/" + p.GetArchitecture()
			if p.GetVariant() != "" {
				text += "/" + p.GetVariant()
			}
			v.Result.Images = append(v.Result.Images, imageView{img.GetId(), text, img.GetNames()})
		}
	}
	return v
}

// errorKinds are the kinds of errors in words that do not change.
var errorKinds = map[boxbuildv1.ErrorKind]string{
	boxbuildv1.ErrorKind_ERROR_KIND_USAGE: "usage", boxbuildv1.ErrorKind_ERROR_KIND_SOURCE: "source",
	boxbuildv1.ErrorKind_ERROR_KIND_NOT_FOUND: "not-found", boxbuildv1.ErrorKind_ERROR_KIND_CONFLICT: "conflict",
	boxbuildv1.ErrorKind_ERROR_KIND_UNAUTHENTICATED: "unauthenticated", boxbuildv1.ErrorKind_ERROR_KIND_DENIED: "denied",
	boxbuildv1.ErrorKind_ERROR_KIND_CANCELED: "canceled", boxbuildv1.ErrorKind_ERROR_KIND_STEP: "step",
	boxbuildv1.ErrorKind_ERROR_KIND_UNAVAILABLE: "unavailable",
}

func errorKind(k boxbuildv1.ErrorKind) string {
	if text, ok := errorKinds[k]; ok {
		return text
	}
	return "internal"
}

// buildSteps returns how far each step of a build is.
func buildSteps(ctx context.Context, builds boxbuildv1.BuildsClient, id string) ([]stepView, error) {
	stream, err := builds.Watch(ctx, &boxbuildv1.WatchRequest{Build: id, NoLogs: true})
	if err != nil {
		return nil, err
	}
	steps := []stepView{}
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return steps, nil
		}
		if err != nil {
			return nil, err
		}
		ev := out.GetEvent()
		if d := ev.GetDeclared(); d != nil {
			steps = append(steps, stepView{Number: ev.GetVertex(), Name: d.GetName(), Status: "waiting", Internal: d.GetInternal()})
		}
		if n := int(ev.GetVertex()); n > 0 && n <= len(steps) {
			steps[n-1].follow(ev)
		}
	}
}

// follow changes what a step is by what has happened to it.
func (s *stepView) follow(ev *boxbuildv1.Event) {
	at := ev.GetTime().AsTime()
	switch ev.GetEvent().(type) {
	case *boxbuildv1.Event_Started:
		s.Status, s.Started, s.Ended = "running", &at, nil
		return
	case *boxbuildv1.Event_Cached:
		s.Status = "cached"
	case *boxbuildv1.Event_Done:
		s.Status = "done"
	case *boxbuildv1.Event_Failed:
		s.Status = "error"
	case *boxbuildv1.Event_Canceled:
		s.Status = "canceled"
	default:
		return
	}
	s.Ended = &at
}
