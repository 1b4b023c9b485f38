package bksession

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/buildkit/session/exporter"
	"google.golang.org/grpc/codes"
)

const (
	methodFindExporters  = "/moby.exporter.v1.Exporter/FindExporters"
	methodFinalizeExport = "/moby.exporter.v1.Exporter/FinalizeExport"
)

// An ExporterRequest is an output that a client has chosen after it has seen what was built.
type ExporterRequest struct {
	Type  string
	Attrs map[string]string
}

// FindExporters asks the client which outputs it wants of a result, given the result's metadata and the IDs of its
// references. A client that does not offer that wants none, nor does one that has the service for its other half only.
func (s *Session) FindExporters(ctx context.Context, md map[string][]byte, refs []string) ([]ExporterRequest, error) {
	if !s.Has(methodFindExporters) {
		return nil, nil
	}
	ctx, cancel := s.Bind(ctx)
	defer cancel()
	resp, err := exporter.NewExporterClient(s.cc).FindExporters(ctx, &exporter.FindExportersRequest{Metadata: md, Refs: refs})
	if err != nil {
		return nil, offered(s.fail(ctx, "asking the client for its outputs", err))
	}
	out := make([]ExporterRequest, 0, len(resp.Exporters))
	for i, e := range resp.Exporters {
		if e == nil || e.Type == "" {
			return nil, fmt.Errorf("asking the client for its outputs (session %s): output %d has no type", s.id, i)
		}
		out = append(out, ExporterRequest{Type: e.Type, Attrs: e.Attrs})
	}
	return out, nil
}

// FinalizeExport tells the client that the outputs are complete, with the exporters' response. It does nothing for a
// client that does not want to know.
func (s *Session) FinalizeExport(ctx context.Context, response map[string]string) error {
	if !s.Has(methodFinalizeExport) {
		return nil
	}
	ctx, cancel := s.Bind(ctx)
	defer cancel()
	_, err := exporter.NewExporterClient(s.cc).FinalizeExport(ctx, &exporter.FinalizeExportRequest{ExporterResponse: response})
	return offered(s.fail(ctx, "telling the client that its outputs are complete", err))
}

// offered returns err, or nil if it is the answer of a client that does not offer what was asked for. Both codes are what
// BuildKit's clients answer, for want of a callback.
func offered(err error) error {
	var said *CallError
	if errors.As(err, &said) && (said.Code == codes.Unavailable || said.Code == codes.Unimplemented) {
		return nil
	}
	return err
}
