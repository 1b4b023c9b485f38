package records

import (
	"context"
	"errors"
	"slices"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/boxbuild/boxbuild/worker/history"
)

// timestampHeader has the daemon's time, from which a client knows how its clock differs.
const timestampHeader = "buildkit-current-timestamp"

// ListenBuildHistory implements the service: what there is, running builds first, and then what happens. The filters and the
// limit are for what has ended; a limit of 0 is none.
func (s *Server) ListenBuildHistory(
	req *controlapi.BuildHistoryRequest, stream controlapi.Control_ListenBuildHistoryServer,
) error {
	match, err := parseFilters(req.GetFilter(), time.Now())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if req.GetLimit() < 0 {
		return status.Errorf(codes.InvalidArgument, "invalid limit %d", req.GetLimit())
	}
	if err := stream.SendHeader(metadata.Pairs(timestampHeader, time.Now().Format(time.RFC3339Nano))); err != nil {
		return err
	}
	ctx := stream.Context()
	l := &listener{s: s, req: req, match: match, send: stream.Send}
	list, at := s.opt.History.Snapshot()
	if err := l.present(ctx, list); err != nil {
		return wire(err)
	}
	for !req.GetEarlyExit() {
		var changes []history.Change
		changes, at, err = s.opt.History.Changes(ctx, at)
		if errors.Is(err, history.ErrClosed) {
			return nil
		}
		if err != nil {
			return wire(err)
		}
		for _, c := range changes {
			if err := l.change(ctx, c); err != nil {
				return wire(err)
			}
		}
	}
	return nil
}

// A listener is one call.
type listener struct {
	s     *Server
	req   *controlapi.BuildHistoryRequest
	match func(*history.Record) bool
	send  func(*controlapi.BuildHistoryEvent) error
}

// present sends what there is: list, the newest first.
func (l *listener) present(ctx context.Context, list []*history.Record) error {
	var ended []*history.Record
	for _, rec := range list {
		switch {
		case l.req.GetRef() != "" && l.req.GetRef() != rec.ID:
		case rec.Status != history.Running:
			if l.match(rec) {
				ended = append(ended, rec)
			}
		case l.match(rec):
			if err := l.event(ctx, controlapi.BuildHistoryEventType_STARTED, rec); err != nil {
				return err
			}
		}
	}
	if l.req.GetActiveOnly() {
		return nil
	}
	if n := int(l.req.GetLimit()); n > 0 && len(ended) > n {
		ended = ended[:n]
	} else if n == 0 {
		slices.Reverse(ended)
	}
	for _, rec := range ended {
		if err := l.event(ctx, controlapi.BuildHistoryEventType_COMPLETE, rec); err != nil {
			return err
		}
	}
	return nil
}

// change sends what has happened to a record.
func (l *listener) change(ctx context.Context, c history.Change) error {
	switch ref := l.req.GetRef(); {
	case ref != "" && ref != c.Record.ID:
		return nil
	case c.Removed:
		return l.send(&controlapi.BuildHistoryEvent{
			Type: controlapi.BuildHistoryEventType_DELETED, Record: &controlapi.BuildHistoryRecord{Ref: c.Record.ID},
		})
	case c.Record.Status == history.Running:
		return l.event(ctx, controlapi.BuildHistoryEventType_STARTED, c.Record)
	}
	return l.event(ctx, controlapi.BuildHistoryEventType_COMPLETE, c.Record)
}

func (l *listener) event(ctx context.Context, typ controlapi.BuildHistoryEventType, rec *history.Record) error {
	wired, err := l.s.record(ctx, rec)
	if errors.Is(err, history.ErrNotFound) {
		return nil // removed meanwhile; whoever goes on listening hears of that
	}
	if err != nil {
		return err
	}
	return l.send(&controlapi.BuildHistoryEvent{Type: typ, Record: wired})
}
