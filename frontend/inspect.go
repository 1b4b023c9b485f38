package frontend

import (
	"context"

	"github.com/boxbuild/boxbuild/solver"
)

// An Inspector is a Frontend that can say what is in the user's file without building it. It is found by assertion, and
// safe for concurrent use. Errors are those of Translate, unless a method says otherwise.
type Inspector interface {
	// Check runs the checks, on all stages if req names no target. An error in the file is part of the findings.
	Check(ctx context.Context, req *Request, env Env) (*Findings, error)
	// Outline says what the target can be given: arguments, secrets and SSH agents.
	Outline(ctx context.Context, req *Request, env Env) (*Outline, error)
	// Targets lists the stages, in the order of the file. It needs nothing but the file.
	Targets(ctx context.Context, req *Request, env Env) (*Targets, error)
}

// Findings is what Check finds.
type Findings struct {
	File     string
	Text     []byte
	Findings []Finding // in the order of the lines
	Err      error     // what Translate would fail with; nil if it would not
}

// A Finding is a violation of one rule.
type Finding struct {
	Rule        string // "JSONArgsRecommended"
	Description string // of the rule
	URL         string // of its documentation, or empty
	Message     string
	Source      []solver.Range
}

// An Outline is what a target can be given.
type Outline struct {
	File        string
	Text        []byte
	Name        string // of the target; empty for a stage without a name
	Description string // the comment above the target that begins with its name
	Args        []OutlineArg
	Secrets     []OutlineMount
	SSH         []OutlineMount
}

// An OutlineArg is an argument that the target or what it is made from uses.
type OutlineArg struct {
	Name        string
	Value       string // with the request's arguments
	Description string // the comment above it that begins with its name
	Source      []solver.Range
}

// An OutlineMount is a secret or an SSH agent.
type OutlineMount struct {
	Name     string
	Required bool
	Source   []solver.Range
}

// Targets is what can be built.
type Targets struct {
	File    string
	Text    []byte
	Targets []Target
}

// A Target is one stage.
type Target struct {
	Name        string // empty for a stage without a name
	Default     bool   // built when the request names no target
	Description string // the comment above it that begins with its name
	Base        string // as it is written
	Platform    string // as it is written
	Source      []solver.Range
}
