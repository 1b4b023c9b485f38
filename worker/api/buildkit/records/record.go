package records

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	controlapi "github.com/moby/buildkit/api/services/control"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/worker/history"
)

// The attachments of a record, by the names that they have in the history, and their media types.
const (
	logsName  = "buildkit-logs"
	traceName = "buildkit-trace"
	errorName = "buildkit-error"

	logsType  = "application/vnd.buildkit.status.v0"
	traceType = "application/vnd.buildkit.otlp.json.v0"
	errorType = "application/vnd.googeapis.google.rpc.status+proto" // as BuildKit spells it
)

// record returns rec as BuildKit's. Of a build that has ended the blobs that it refers to are there.
func (s *Server) record(ctx context.Context, rec *history.Record) (*controlapi.BuildHistoryRecord, error) {
	out := &controlapi.BuildHistoryRecord{
		Ref: rec.ID, Frontend: rec.Origin.Frontend, FrontendAttrs: rec.Origin.Attrs,
		CreatedAt: timestamppb.New(rec.Created), Generation: int32(rec.Generation), Pinned: rec.Pinned,
		NumTotalSteps: int32(rec.Steps.Total), NumCachedSteps: int32(rec.Steps.Cached),
		NumCompletedSteps: int32(rec.Steps.Completed), NumWarnings: int32(rec.Steps.Warnings),
	}
	for _, o := range rec.Origin.Outputs {
		out.Exporters = append(out.Exporters, &controlapi.Exporter{Type: o.Type, Attrs: o.Attrs})
	}
	if rec.Status == history.Running {
		return out, nil
	}
	out.CompletedAt = timestamppb.New(rec.Ended)
	if rec.Result != nil {
		out.ExporterResponse = rec.Result.Metadata
		out.Result = s.result(rec)
	}
	if rec.Error != nil {
		st := decodeError(rec.Error)
		st.Details = nil // they are in the blob
		out.Error = st
	}
	have, err := s.attachments(ctx, rec)
	if err != nil {
		return nil, err
	}
	out.Logs, out.Trace, out.ExternalError = have[logsName], have[traceName], have[errorName]
	return out, nil
}

// result describes what the outputs have made, of what is in the store; nil if that is nothing.
func (s *Server) result(rec *history.Record) *controlapi.BuildResultInfo {
	out := &controlapi.BuildResultInfo{Results: map[int64]*controlapi.Descriptor{}}
	for _, place := range slices.Sorted(maps.Keys(rec.Result.Exports)) {
		desc := rec.Result.Exports[place]
		if _, err := s.opt.Blobs.Stat(desc.Digest); err != nil {
			continue
		}
		out.Results[int64(place)] = descriptor(desc)
		if out.ResultDeprecated == nil {
			out.ResultDeprecated = out.Results[int64(place)]
		}
	}
	if out.ResultDeprecated == nil {
		return nil
	}
	return out
}

func descriptor(d ocispec.Descriptor) *controlapi.Descriptor {
	return &controlapi.Descriptor{
		MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations,
	}
}

// attachments returns the blobs of a build that has ended, which it makes if they are not there. What makes them reads the
// whole log, so that one goes after the other.
func (s *Server) attachments(ctx context.Context, rec *history.Record) (map[string]*controlapi.Descriptor, error) {
	select {
	case s.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-s.turns }()
	rec, err := s.opt.History.Get(rec.ID)
	if err != nil {
		return nil, err
	}
	out := map[string]*controlapi.Descriptor{}
	for _, a := range []struct {
		name, mediaType string
		write           func(io.Writer) error
	}{
		{logsName, logsType, func(w io.Writer) error { return s.writeLogs(ctx, rec, w) }},
		{traceName, traceType, func(w io.Writer) error { return s.writeTrace(ctx, rec, w) }},
		{errorName, errorType, func(w io.Writer) error { return writeError(rec, w) }},
	} {
		if a.name == errorName && rec.Error == nil {
			continue
		}
		desc, ok := rec.Attachments[a.name]
		if !ok || a.name == traceName && s.claim(rec) {
			desc, err = s.opt.History.Attach(rec.ID, a.name, a.mediaType, a.write)
			switch {
			case errors.Is(err, history.ErrNotFound) || ctx.Err() != nil:
				return nil, err
			case err != nil:
				// The record is of use without it, and the next to ask may have more luck.
				s.opt.Log.Warn("making what a record refers to", "build", rec.ID, "what", a.name, "error", err)
				continue
			}
		}
		out[a.name] = descriptor(desc)
	}
	return out, nil
}

func writeError(rec *history.Record, w io.Writer) error {
	b, err := proto.Marshal(decodeError(rec.Error))
	if err != nil {
		return fmt.Errorf("encoding the error of build %s: %w", rec.ID, err)
	}
	_, err = w.Write(b)
	return err
}

// finalize makes what is still to come of a record. Of one that there is not, nothing is.
func (s *Server) finalize(ctx context.Context, id string) error {
	rec, err := s.opt.History.Get(id)
	if errors.Is(err, history.ErrNotFound) {
		return nil
	}
	if err != nil || rec.Status == history.Running {
		return err
	}
	_, err = s.attachments(ctx, rec)
	return err
}
