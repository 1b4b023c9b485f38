package dockerfile

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/report"
)

const inspected = `# a comment that is about nothing

# VERSION of the base
ARG VERSION=1
ARG BASE=busybox:${VERSION}
ARG UNUSED=x
# build compiles
FROM ${BASE} AS build
# CFLAGS for the compiler
ARG CFLAGS=-O2
ARG VERSION
ARG NOVALUE
RUN --mount=type=secret,id=token,required --mount=type=secret,id=opt,env=OPT \
  make
RUN --mount=type=ssh make
FROM nosuch AS other
ARG OTHER=1
MAINTAINER me
FROM scratch AS last
COPY --from=build /x /x
CMD x
`

// lineRanges is a location of lines.
func lineRanges(lines ...int) *report.Location {
	l := &report.Location{}
	for _, n := range lines {
		l.Ranges = append(l.Ranges, report.Range{Start: report.Position{Line: n}, End: report.Position{Line: n}})
	}
	return l
}

// TestOutline checks that an outline has what the target uses, through the stages that it is made from, and not more.
func TestOutline(t *testing.T) {
	c := dockerfileCase(t, inspected)
	c.req.BuildArgs["CFLAGS"] = "-O3"
	got, err := New().(frontend.Inspector).Outline(t.Context(), c.req, c.env)
	if err != nil {
		t.Fatal(err)
	}
	want := &report.Outline{
		Name: "last", Sources: [][]byte{[]byte(inspected)},
		Args: []report.Arg{
			{Name: "VERSION", Value: "1", Description: "of the base", Location: lineRanges(4)},
			{Name: "BASE", Value: "busybox:1", Location: lineRanges(5)},
			{Name: "CFLAGS", Value: "-O3", Description: "for the compiler", Location: lineRanges(10)},
			{Name: "NOVALUE", Location: lineRanges(12)},
		},
		Secrets: []report.Mount{
			{Name: "opt", Location: lineRanges(13, 14)},
			{Name: "token", Required: true, Location: lineRanges(13, 14)},
		},
		SSH: []report.Mount{{Name: "default", Location: lineRanges(15)}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestTargets checks the list of stages; it is made without a look at any image.
func TestTargets(t *testing.T) {
	c := dockerfileCase(t, inspected)
	c.env.images = nil
	got, err := New().(frontend.Inspector).Targets(t.Context(), c.req, c.env)
	if err != nil {
		t.Fatal(err)
	}
	want := []report.Target{
		{Name: "build", Description: "compiles", Base: "${BASE}", Location: lineRanges(8)},
		{Name: "other", Base: "nosuch", Location: lineRanges(16)},
		{Name: "last", Default: true, Base: "scratch", Location: lineRanges(19)},
	}
	if diff := cmp.Diff(want, got.Targets); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestCheck checks that all stages are looked at, or those of the target, without a
// transfer of the context; and that an error is one of the findings.
func TestCheck(t *testing.T) {
	rules := func(target, text string) (out []string, f *report.Findings) {
		c := dockerfileCase(t, text)
		c.req.Target = target
		f, err := New().(frontend.Inspector).Check(t.Context(), c.req, c.env)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range f.Warnings {
			out = append(out, x.RuleName)
		}
		for _, l := range c.env.locals {
			if len(l.Follow) == 0 {
				t.Errorf("the context was read: %v", l)
			}
		}
		if len(c.env.warnings) > 0 {
			t.Errorf("findings were shown as warnings: %v", c.env.warnings)
		}
		return out, f
	}
	text := "FROM busybox AS a\nENV k v\nCOPY . /\nFROM busybox AS b\nMAINTAINER me\nCMD x\n"
	got, f := rules("", text)
	if diff := cmp.Diff([]string{"MaintainerDeprecated", "LegacyKeyValueFormat", "JSONArgsRecommended"}, got); diff != "" || f.Error != nil {
		t.Errorf("all stages: %v\n%s", f.Error, diff)
	}
	// What the parser sees is reported whatever the target is.
	got, _ = rules("b", text)
	if diff := cmp.Diff([]string{"MaintainerDeprecated", "JSONArgsRecommended"}, got); diff != "" {
		t.Errorf("one stage:\n%s", diff)
	}
	_, f = rules("", "FROM busybox\nCOPY --from=later /x /\nFROM busybox AS later\n")
	if f.Error == nil || cmp.Diff(lineRanges(2), &f.Error.Location) != "" {
		t.Errorf("an error: %v", f.Error)
	}
}

// TestInspectionNeedsNoGrants checks that whoever only looks at a Dockerfile is asked for no entitlement: nothing runs. The
// same text is not built without.
func TestInspectionNeedsNoGrants(t *testing.T) {
	for flag, built := range map[string]bool{
		"--network=host": false, "--security=insecure": false,
		"--device=vendor.com/class=one": true, // the worker knows which devices need one
	} {
		c := dockerfileCase(t, "FROM scratch\nARG A=1\nRUN "+flag+" [\"/x\"]\n")
		in := New().(frontend.Inspector)
		out, err := in.Outline(t.Context(), c.req, c.env)
		if err != nil || len(out.Args) != 1 {
			t.Errorf("%s: outline %+v, %v", flag, out, err)
		}
		found, err := in.Check(t.Context(), c.req, c.env)
		if err != nil || found.Error != nil {
			t.Errorf("%s: check %+v, %v", flag, found, err)
		}
		if targets, err := in.Targets(t.Context(), c.req, c.env); err != nil || len(targets.Targets) != 1 {
			t.Errorf("%s: targets %+v, %v", flag, targets, err)
		}
		if _, err := New().Translate(t.Context(), c.req, c.env); (err == nil) != built {
			t.Errorf("%s: translated with %v", flag, err)
		}
	}
}
