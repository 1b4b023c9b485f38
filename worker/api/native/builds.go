package native

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker/history"
)

// ErrorForm is the name under which the history keeps errors as EncodeError makes them.
const ErrorForm = "native"

// EncodeError returns err as clients get it, as a protocol buffer.
func EncodeError(err error) []byte {
	b, merr := proto.Marshal(boxbuildv1.ValidText(wireError(err)))
	if merr != nil {
		return nil // there is the text
	}
	return b
}

// recorded returns an error of the past as clients would have got it then; nil if err is none.
func recorded(err error) *boxbuildv1.Error {
	var past *history.Error
	if !errors.As(err, &past) {
		return nil
	}
	out := &boxbuildv1.Error{}
	if form := past.Form(ErrorForm); form == nil || proto.Unmarshal(form, out) != nil {
		return nil
	}
	return out
}

// find returns the build that a client means.
func (s *Server) find(ref string) (*history.Record, error) {
	if s.opt.History == nil {
		return nil, usage("this daemon keeps no history of builds")
	}
	return s.opt.History.Find(ref)
}

// Watch implements the service.
func (s *Server) Watch(req *boxbuildv1.WatchRequest, stream boxbuildv1.Builds_WatchServer) error {
	return s.perform(stream.Context(), "Watch", func(ctx context.Context) error {
		rec, err := s.find(req.GetBuild())
		if err != nil {
			return err
		}
		var sequence uint64
		send := func(out *boxbuildv1.BuildOutput) error {
			sequence++
			out.Sequence = sequence
			return stream.Send(out)
		}
		err = send(&boxbuildv1.BuildOutput{Output: &boxbuildv1.BuildOutput_Accepted{
			Accepted: &boxbuildv1.BuildAccepted{Id: rec.ID},
		}})
		if err != nil {
			return err
		}
		numbers := numbering{}
		opt := history.ReadOptions{Follow: req.GetFollow(), NoLogs: req.GetNoLogs()}
		for _, n := range req.GetVertices() {
			opt.Steps = append(opt.Steps, int(n))
		}
		err = s.opt.History.Read(ctx, rec.ID, opt, func(ev solver.Event) error {
			for _, out := range numbers.outputs(&ev) {
				if err := send(out); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if rec, err = s.ended(ctx, rec.ID, req.GetFollow()); err != nil || rec == nil {
			return err
		}
		return send(&boxbuildv1.BuildOutput{Output: &boxbuildv1.BuildOutput_Finished{Finished: finished(rec)}})
	})
}

// ended returns the record of a build that has ended, which it waits for; or nil if it is not to wait.
func (s *Server) ended(ctx context.Context, id string, wait bool) (*history.Record, error) {
	if wait {
		return s.opt.History.Wait(ctx, id)
	}
	rec, err := s.opt.History.Get(id)
	if err != nil || rec.Status == history.Running {
		return nil, err
	}
	return rec, nil
}

func finished(rec *history.Record) *boxbuildv1.BuildFinished {
	if rec.Error != nil {
		return &boxbuildv1.BuildFinished{Outcome: &boxbuildv1.BuildFinished_Error{Error: wireError(rec.Error)}}
	}
	return &boxbuildv1.BuildFinished{Outcome: &boxbuildv1.BuildFinished_Result{Result: pastResult(rec.Result)}}
}

func pastResult(res *history.Result) *boxbuildv1.BuildResult {
	out := &boxbuildv1.BuildResult{}
	if res == nil {
		return out
	}
	out.Metadata, out.Report = res.Metadata, res.Report
	for _, img := range res.Images {
		out.Images = append(out.Images, &boxbuildv1.BuiltImage{Platform: wirePlatform(img.Platform), Id: img.ID, Names: img.Names})
	}
	return out
}

// ListBuilds implements the service.
func (s *Server) ListBuilds(context.Context, *boxbuildv1.ListBuildsRequest) (*boxbuildv1.ListBuildsResponse, error) {
	out := &boxbuildv1.ListBuildsResponse{}
	if s.opt.History == nil {
		return out, nil
	}
	for _, rec := range s.opt.History.List() {
		out.Builds = append(out.Builds, wireBuild(rec))
	}
	return out, nil
}

// InspectBuild implements the service.
func (s *Server) InspectBuild(_ context.Context, req *boxbuildv1.InspectBuildRequest) (*boxbuildv1.BuildRecord, error) {
	rec, err := s.find(req.GetBuild())
	if err != nil {
		return nil, err
	}
	return wireBuild(rec), nil
}

func wireBuild(rec *history.Record) *boxbuildv1.BuildRecord {
	out := &boxbuildv1.BuildRecord{
		Id: rec.ID, Frontend: rec.Origin.Frontend, Attrs: rec.Origin.Attrs, Tags: rec.Tags,
		Created: timestamp(rec.Created), Ended: timestamp(rec.Ended), Status: string(rec.Status),
		TotalSteps: int32(rec.Steps.Total), CachedSteps: int32(rec.Steps.Cached), CompletedSteps: int32(rec.Steps.Completed),
		Warnings: int32(rec.Steps.Warnings), Pinned: rec.Pinned, LogError: rec.LogError,
	}
	for _, o := range rec.Origin.Outputs {
		out.Outputs = append(out.Outputs, &boxbuildv1.BuildOrigin{Type: o.Type, Attrs: o.Attrs})
	}
	if rec.Error != nil {
		out.Error = wireError(rec.Error)
	}
	if rec.Result != nil && rec.Error == nil {
		out.Result = pastResult(rec.Result)
	}
	return out
}

// UpdateBuild implements the service.
func (s *Server) UpdateBuild(_ context.Context, req *boxbuildv1.UpdateBuildRequest) (*boxbuildv1.UpdateBuildResponse, error) {
	var action func(id string) error
	switch a := req.GetAction().(type) {
	case *boxbuildv1.UpdateBuildRequest_Remove:
		action = func(id string) error { return s.opt.History.Remove(id) }
	case *boxbuildv1.UpdateBuildRequest_Pin:
		action = func(id string) error { return s.opt.History.Pin(id, a.Pin) }
	case *boxbuildv1.UpdateBuildRequest_Cancel:
		action = func(id string) error { return s.opt.History.Cancel(id) }
	default:
		return nil, usage("the daemon does not know what to do with these builds; update it")
	}
	out := &boxbuildv1.UpdateBuildResponse{}
	var errs []error
	for _, ref := range req.GetBuilds() {
		rec, err := s.find(ref)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out.Builds = append(out.Builds, rec.ID)
	}
	if req.GetAll() && s.opt.History != nil {
		for _, rec := range s.opt.History.List() {
			if rec.Status != history.Running && !rec.Pinned {
				out.Builds = append(out.Builds, rec.ID)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, id := range out.Builds {
		if err := action(id); err != nil && (!req.GetAll() || !errors.Is(err, history.ErrNotFound)) {
			errs = append(errs, err)
		}
	}
	return out, errors.Join(errs...)
}

// platformText is a platform as clients write it.
func platformText(p op.Platform) string {
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return text
}
