// Package policy applies BuildKit's source policies: rules of a request which deny sources or put others in their place,
// and a service of the client's which is asked about each.
//
// Rules see a source as LLB has it, an identifier and attributes. Of the rules that match, the last one that allows or
// denies counts; one that converts is applied at once, and all rules are looked at again. Lists of rules that are added for
// one call (Merge) allow and deny for themselves. Other than BuildKit's, rules that deny or convert match a source however its
// identifier is spelled: see spellings. After them the client's service decides, if the request names one.
package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"google.golang.org/grpc"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/llb"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// maxConversions is how often one source may be converted: rules may convert in circles.
const maxConversions = 20

// Errors of Apply, found with errors.Is.
var (
	ErrDenied = errors.New("source denied by policy")
	ErrLoop   = errors.New("too many operations")
)

// A Policy is what a request says of sources. It is safe for concurrent use.
type Policy struct {
	lists    [][]rule                 // each of which can deny, whatever the others say
	verifier grpc.ClientConnInterface // nil if there is none
}

var _ worker.SourcePolicy = (*Policy)(nil)

// New reads a policy. verifier is the connection to the client whose service is to be asked; it may be nil, as may in.
func New(in *spb.Policy, verifier grpc.ClientConnInterface) (*Policy, error) {
	rules, err := read(in)
	if err != nil {
		return nil, err
	}
	return &Policy{lists: [][]rule{rules}, verifier: verifier}, nil
}

// read reads the rules of a policy.
func read(in *spb.Policy) ([]rule, error) {
	var out []rule
	for i, r := range in.GetRules() {
		read, err := newRule(r)
		if err != nil {
			return nil, &frontend.UsageError{Message: fmt.Sprintf("rule %d of the source policy: %v", i+1, err)}
		}
		out = append(out, *read)
	}
	return out, nil
}

// An Order says which rules are looked at first.
type Order int

// The orders. They matter to conversions only.
const (
	OwnFirst   Order = iota // those of the build: for what is to be built
	AddedFirst              // for questions
)

// Merge returns the policy that a call has whose build has own, which may be nil, and which adds some.
func Merge(own worker.SourcePolicy, added []*spb.Policy, order Order) (worker.SourcePolicy, error) {
	out := &Policy{}
	switch own := own.(type) {
	case nil:
	case *Policy:
		out.lists, out.verifier = own.lists, own.verifier
	default:
		return nil, fmt.Errorf("adding source policies to a %T", own)
	}
	var more [][]rule
	for _, in := range added {
		if in == nil {
			return nil, &frontend.UsageError{Message: "invalid nil source policy"}
		}
		rules, err := read(in)
		if err != nil {
			return nil, err
		}
		more = append(more, rules)
	}
	if order == OwnFirst {
		out.lists = slices.Concat(out.lists, more)
	} else {
		out.lists = slices.Concat(more, out.lists)
	}
	return out, nil
}

// Written returns src as LLB has it.
func Written(src op.Source) (*pb.SourceOp, error) {
	o, err := encode(src)
	return o.GetSource(), err
}

// Apply implements worker.SourcePolicy.
func (p *Policy) Apply(ctx context.Context, src op.Source, look frontend.Resolver) (op.Source, error) {
	if l, ok := src.(*op.Local); ok && l.Pinned() {
		return src, nil // it was looked at before it was read, and has no words in LLB now
	}
	was, err := encode(src)
	if err != nil {
		return nil, err
	}
	is := was.CloneVT()
	if err := p.convert(is.GetSource()); err != nil {
		return nil, err
	}
	if p.verifier != nil {
		if err := p.verify(ctx, is, look); err != nil {
			return nil, err
		}
	}
	if is.GetSource().GetIdentifier() == was.GetSource().GetIdentifier() && maps.Equal(is.GetSource().GetAttrs(), was.GetSource().GetAttrs()) {
		return src, nil
	}
	return decode(is)
}

// encode returns a source as an operation of LLB.
func encode(src op.Source) (*pb.Op, error) {
	def, err := llb.Encode(&solver.Input{Vertex: solver.NewVertex(src, nil, solver.Meta{Name: src.String()})}, llb.Options{})
	if err != nil {
		return nil, fmt.Errorf("applying the source policy to %s: %w", src, err)
	}
	var out pb.Op
	if err := out.UnmarshalVT(def.GetDef()[0]); err != nil {
		return nil, fmt.Errorf("applying the source policy to %s: %w", src, err)
	}
	if out.GetSource() == nil {
		return nil, fmt.Errorf("applying the source policy to %s: it has no form in LLB", src)
	}
	return &out, nil
}

// decode is the opposite of encode.
func decode(in *pb.Op) (op.Source, error) {
	name := in.GetSource().GetIdentifier()
	text, err := in.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("converting a source to %s: %w", name, err)
	}
	g, err := llb.Decode(definition(text))
	if err != nil {
		return nil, fmt.Errorf("converting a source to %s: %w", name, err)
	}
	src, ok := g.Root.Vertex.Op().(op.Source)
	if !ok {
		return nil, fmt.Errorf("converting a source to %s: it is no source", name)
	}
	return src, nil
}

// convert applies the rules to src until none changes it.
func (p *Policy) convert(src *pb.SourceOp) error {
	for range maxConversions + 1 {
		changed, err := p.pass(src)
		if err != nil || !changed {
			return err
		}
	}
	return fmt.Errorf("too many mutations on a single source: %w", ErrLoop)
}

// pass applies the rules up to the first one that changes src, and says whether one did.
func (p *Policy) pass(src *pb.SourceOp) (bool, error) {
	for _, rules := range p.lists {
		if changed, err := pass(rules, src); err != nil || changed {
			return changed, err
		}
	}
	return false, nil
}

// pass applies one list of rules.
func pass(rules []rule, src *pb.SourceOp) (bool, error) {
	denied := false
	names := append([]string{src.GetIdentifier()}, spellings(src.GetIdentifier())...)
	for i := range rules {
		r := &rules[i]
		name, err := r.find(src, names)
		if err != nil {
			return false, fmt.Errorf("error matching source policy: %w", err)
		}
		if name == "" {
			continue
		}
		switch r.action {
		case spb.PolicyAction_ALLOW:
			denied = false
		case spb.PolicyAction_DENY:
			denied = true
		case spb.PolicyAction_CONVERT:
			if changed, err := r.convert(src, name); err != nil || changed {
				return changed, err
			}
		}
	}
	if denied {
		return false, fmt.Errorf("source %q denied by policy: %w", src.GetIdentifier(), ErrDenied)
	}
	return false, nil
}

// A rule is one rule with its selector compiled.
type rule struct {
	action      spb.PolicyAction
	identifier  string
	match       spb.MatchType
	constraints []*spb.AttrConstraint
	updates     *spb.Update
	// pattern compiles the identifier, once somebody asks: a rule that never matters may be wrong.
	pattern func() (*regexp.Regexp, error)
}

func newRule(in *spb.Rule) (*rule, error) {
	sel := in.GetSelector()
	if sel == nil {
		return nil, errors.New("it selects nothing")
	}
	for _, c := range sel.GetConstraints() {
		if c == nil {
			return nil, errors.New("it has an empty constraint")
		}
	}
	switch in.GetAction() {
	case spb.PolicyAction_ALLOW, spb.PolicyAction_DENY, spb.PolicyAction_CONVERT:
	default:
		return nil, fmt.Errorf("unknown action %s", in.GetAction())
	}
	r := &rule{
		action: in.GetAction(), identifier: sel.GetIdentifier(), match: sel.GetMatchType(),
		constraints: sel.GetConstraints(), updates: in.GetUpdates(),
	}
	switch r.match {
	case spb.MatchType_EXACT:
	case spb.MatchType_REGEX:
		r.pattern = sync.OnceValues(func() (*regexp.Regexp, error) { return regexp.Compile(r.identifier) })
	case spb.MatchType_WILDCARD:
		r.pattern = sync.OnceValues(func() (*regexp.Regexp, error) { return wildcard(r.identifier) })
	default:
		return nil, fmt.Errorf("unknown match type: %s", r.match)
	}
	return r, nil
}

// wildcard compiles a pattern in which a star stands for any text, which is also a group that a conversion can name.
func wildcard(s string) (*regexp.Regexp, error) {
	if strings.Contains(s, "**") {
		return nil, fmt.Errorf("invalid wildcard %q: two stars in a row", s)
	}
	return regexp.Compile("^" + strings.ReplaceAll(regexp.QuoteMeta(s), `\*`, "(.*)") + "$")
}

// find returns the first of names, src's identifier and its other spellings, that the rule is about; "" if there is none.
// What is allowed is allowed as it is written.
func (r *rule) find(src *pb.SourceOp, names []string) (string, error) {
	for _, c := range r.constraints {
		ok, err := holds(c, src.GetAttrs()[c.GetKey()])
		if err != nil || !ok {
			return "", err
		}
	}
	if r.action == spb.PolicyAction_ALLOW {
		names = names[:1]
	}
	for _, name := range names {
		if r.identifier == name {
			return name, nil
		}
		if r.pattern == nil {
			continue
		}
		re, err := r.pattern()
		if err != nil {
			return "", err
		}
		if re.MatchString(name) {
			return name, nil
		}
	}
	return "", nil
}

func holds(c *spb.AttrConstraint, value string) (bool, error) {
	switch c.GetCondition() {
	case spb.AttrMatch_EQUAL:
		return value == c.GetValue(), nil
	case spb.AttrMatch_NOTEQUAL:
		return value != c.GetValue(), nil
	case spb.AttrMatch_MATCHES:
		ok, err := regexp.MatchString(c.GetValue(), value)
		if err != nil {
			return false, fmt.Errorf("invalid regex %q: %w", c.GetValue(), err)
		}
		return ok, nil
	}
	return false, fmt.Errorf("unknown attr condition: %s", c.GetCondition())
}

// convert changes src, which the rule matches as name, as the rule says, and says whether that was a change.
func (r *rule) convert(src *pb.SourceOp, name string) (bool, error) {
	if r.updates == nil {
		return false, errors.New("error mutating source policy: missing destination for convert rule")
	}
	dest := r.updates.GetIdentifier()
	if dest == "" {
		dest = r.identifier
	}
	dest, err := r.format(name, dest)
	if err != nil {
		return false, fmt.Errorf("error formatting destination: %w", err)
	}
	changed := false
	if dest != "" && dest != src.GetIdentifier() {
		src.Identifier, changed = dest, true
	}
	for k, v := range r.updates.GetAttrs() {
		if src.GetAttrs()[k] == v {
			continue
		}
		if src.Attrs == nil {
			src.Attrs = map[string]string{}
		}
		src.Attrs[k], changed = v, true
	}
	return changed, nil
}

// format puts what the groups of the rule's pattern have matched of id into dest.
func (r *rule) format(id, dest string) (string, error) {
	if r.pattern == nil {
		return dest, nil
	}
	re, err := r.pattern()
	if err != nil {
		return "", err
	}
	if r.match == spb.MatchType_REGEX {
		return re.ReplaceAllString(id, dest), nil
	}
	m := re.FindStringSubmatchIndex(id)
	if m == nil {
		return id, nil
	}
	return string(re.ExpandString(nil, dest, id, m)), nil
}
