package frontend

import (
	"context"

	"github.com/boxbuild/boxbuild/frontend/report"
)

// A Call is what is wanted of a request.
type Call int

// The calls.
const (
	Build   Call = iota // an image
	Check               // a *report.Findings
	Outline             // a *report.Outline
	Targets             // a *report.Targets
)

// An Inspector is a Frontend that can say what is in the user's file without building it. It is found by assertion, and
// safe for concurrent use. Errors are those of Translate, unless a method says otherwise.
type Inspector interface {
	// Check runs the checks, on all stages if req names no target. An error in the file is part of the findings.
	Check(ctx context.Context, req *Request, env Env) (*report.Findings, error)
	// Outline says what the target can be given: arguments, secrets and SSH agents.
	Outline(ctx context.Context, req *Request, env Env) (*report.Outline, error)
	// Targets lists the stages, in the order of the file. It needs nothing but the file.
	Targets(ctx context.Context, req *Request, env Env) (*report.Targets, error)
}

// Inspect answers call, which is not Build, or says that f cannot.
func Inspect(ctx context.Context, f Frontend, call Call, req *Request, env Env) (report.Document, error) {
	in, ok := f.(Inspector)
	if !ok {
		return nil, &UsageError{Message: "this frontend can only build"}
	}
	switch call {
	case Check:
		return document(in.Check(ctx, req, env))
	case Outline:
		return document(in.Outline(ctx, req, env))
	case Targets:
		return document(in.Targets(ctx, req, env))
	case Build:
	}
	return nil, &UsageError{Message: "there is no such call"}
}

// document keeps a nil pointer from becoming a document.
func document[D report.Document](d D, err error) (report.Document, error) {
	if err != nil {
		return nil, err
	}
	return d, nil
}
