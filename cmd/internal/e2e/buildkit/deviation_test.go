package buildkit

import (
	"regexp"
	"slices"
	"strings"
)

// A deviation is a difference from BuildKit that is meant: see worker/api/buildkit/progress/DESIGN.md.
type deviation struct {
	under *regexp.Regexp // the first lines of the vertices that it is about
	line  *regexp.Regexp // what of their other lines is left out of the comparison; nil for the whole vertex
}

func differs(under, line string) deviation {
	d := deviation{under: regexp.MustCompile(under)}
	if line != "" {
		d.line = regexp.MustCompile(line)
	}
	return d
}

var (
	// ours is what BuildKit does not tell.
	ours = []deviation{
		differs(`^exporting to image`, `^\tpart (writing image|naming to) .*`),
		differs(`^exporting to image`, `^\tpart pushing (layer|config) .*`),
		differs(`^exporting to `, `^\twarning .*rewrite-timestamp is specified.*`),
		differs(`FROM|^\[context`, ` \| of a known size \| counted`),
		differs(`\] LINK COPY`, `^\tfrom .*`),
		differs(`load metadata for`, `: REGISTRY answers 404 Not Found: MANIFEST_UNKNOWN: manifest unknown`),
	}
	// theirs is what only BuildKit tells.
	theirs = []deviation{
		differs(`^\[internal\] preparing inline document`, ""),
		differs(`COPY <<`, `^\tfrom \[internal\] preparing inline document.*`),
		differs(`FROM|^\[context`, ` \| of a known size \| counted`),
		differs(`\] LINK COPY`, `^\tpart merging.*`),
		differs(`COPY`, `failed to calculate checksum of ref REF: `),
	}
	// either is what both tell in their own way: what git says, and the scopes of a push, which for us has those of the
	// repositories to mount layers from.
	either = []deviation{
		differs(`^\[auth\] .*push`, ""),
		differs(`load git source|ADD .*\.git`, `^\tlog .*`),
	}
	// unread is told by BuildKit also of a build that needs nothing of its context, whose .dockerignore we don't read then.
	unread = differs(`^\[internal\] load \.dockerignore`, "")
)

// agreed returns what is compared of a text that told.text made.
func agreed(text string, but ...deviation) string {
	but = append(slices.Clone(either), but...)
	var out []string
	for run := range strings.SplitSeq(text, "\n\n") {
		here := but
		if !strings.Contains(run, "[internal] load build context") {
			here = append(here[:len(here):len(here)], unread)
		}
		out = append(out, agreedRun(run, here))
	}
	return strings.Join(out, "\n\n")
}

// agreedRun is agreed for one build.
func agreedRun(text string, but []deviation) string {
	var out []string
	var here []deviation
	skip := false
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(line, "\t") {
			here, skip = nil, false
			for _, d := range but {
				if d.under.MatchString(line) {
					here, skip = append(here, d), skip || d.line == nil
				}
			}
			if !skip {
				out = append(out, line)
			}
			continue
		}
		left := line
		for _, d := range here {
			if d.line != nil {
				left = d.line.ReplaceAllString(left, "")
			}
		}
		if !skip && left != "" {
			out = append(out, left)
		}
	}
	return strings.Join(out, "\n")
}
