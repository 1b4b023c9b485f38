package buildkit

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// A toldVertex is all that a client has been told of a vertex.
type toldVertex struct {
	client.Vertex
	parts []*client.VertexStatus // each once, as told last, in the order in which they were told of first
	logs  map[int]string         // by stream
	warns []*client.VertexWarning
}

// A told is all that a client has been told of a build, in the order of its vertices.
type told struct {
	order []*toldVertex
	by    map[digest.Digest]*toldVertex
}

// hear takes all that is told.
func hear(ch chan *client.SolveStatus) *told {
	t := &told{by: map[digest.Digest]*toldVertex{}}
	for s := range ch {
		for _, v := range s.Vertexes {
			at := t.at(v.Digest)
			if v.Cached = v.Cached || at.Cached; v.Started == nil {
				v.Started = at.Started
			}
			at.Vertex = *v
		}
		for _, st := range s.Statuses {
			at := t.at(st.Vertex)
			i := slices.IndexFunc(at.parts, func(have *client.VertexStatus) bool { return have.ID == st.ID })
			if i < 0 {
				at.parts = append(at.parts, st)
			} else {
				at.parts[i] = st
			}
		}
		for _, l := range s.Logs {
			t.at(l.Vertex).logs[l.Stream] += string(l.Data)
		}
		for _, w := range s.Warnings {
			at := t.at(w.Vertex)
			at.warns = append(at.warns, w)
		}
	}
	return t
}

func (t *told) at(d digest.Digest) *toldVertex {
	if t.by[d] == nil {
		t.by[d] = &toldVertex{logs: map[int]string{}}
		t.order = append(t.order, t.by[d])
	}
	return t.by[d]
}

// text is what was told as a text without times, sums and sizes. names are replaced by what they stand for.
func (t *told) text(names *strings.Replacer) string {
	var b strings.Builder
	for _, v := range t.sorted() {
		fmt.Fprintf(&b, "%s\n", strings.Join(slices.DeleteFunc([]string{v.Name, v.marks()}, func(s string) bool { return s == "" }), " | "))
		inputs := make([]string, 0, len(v.Inputs))
		for _, in := range v.Inputs {
			name := "?"
			if t.by[in] != nil {
				name = t.by[in].Name
			}
			inputs = append(inputs, name)
		}
		for _, name := range slices.Compact(slices.Sorted(slices.Values(inputs))) {
			fmt.Fprintf(&b, "\tfrom %s\n", name)
		}
		for _, line := range partLines(v.parts) {
			fmt.Fprintf(&b, "\tpart %s\n", line)
		}
		for _, s := range []int{1, 2} {
			if l := v.logs[s]; l != "" {
				fmt.Fprintf(&b, "\tlog %d %q\n", s, l)
			}
		}
		for _, w := range v.warns {
			fmt.Fprintf(&b, "\twarning %d %q %q %s", w.Level, w.Short, w.Detail, w.URL)
			for _, r := range w.Range {
				fmt.Fprintf(&b, " %d-%d", r.Start.Line, r.End.Line)
			}
			if w.SourceInfo != nil {
				fmt.Fprintf(&b, " of %s, %s", w.SourceInfo.Filename, w.SourceInfo.Language)
			}
			b.WriteString("\n")
		}
		if v.Error != "" {
			fmt.Fprintf(&b, "\terror %q\n", v.Error)
		}
	}
	return plain(names.Replace(b.String()))
}

// stages are the stages of a build, by what the names of their vertices have: no vertex starts before one of an earlier stage.
var stages = []*regexp.Regexp{
	regexp.MustCompile(`internal\] load (build definition|git source|remote build context)`),
	regexp.MustCompile(`\] load metadata for `),
	regexp.MustCompile(`\] load \.dockerignore`),
	regexp.MustCompile(`.`),
	regexp.MustCompile(`^exporting to `),
}

// stage is the stage of a vertex: the last that it fits, but what fits all comes only if no other does.
func stage(name string) int {
	for i, re := range stages {
		if re.String() != "." && re.MatchString(name) {
			return i
		}
	}
	return slices.IndexFunc(stages, func(re *regexp.Regexp) bool { return re.String() == "." })
}

// depth is how many vertices are on the longest way from v to one that follows from none.
func (t *told) depth(v *toldVertex) (n int) {
	if strings.Contains(v.Name, "] LINK ") { // BuildKit does not say what that follows from
		return 0
	}
	for _, in := range v.Inputs {
		if below := t.by[in]; below != nil {
			n = max(n, 1+t.depth(below))
		}
	}
	return n
}

// sorted are the vertices in an order that does not depend on which of several that may start is the first.
func (t *told) sorted() []*toldVertex {
	return slices.SortedStableFunc(slices.Values(t.order), func(a, b *toldVertex) int {
		return cmp.Or(cmp.Compare(stage(a.Name), stage(b.Name)), cmp.Compare(t.depth(a), t.depth(b)), cmp.Compare(place(a.Name), place(b.Name)))
	})
}

// place is what vertices are ordered by that nothing else orders. What the client itself tells is in order.
func place(name string) string {
	if strings.HasPrefix(name, "[auth]") {
		return "[auth]"
	}
	return name
}

// misplaced finds a vertex that started before one which has to come before it, and one that started before what it follows
// from had.
func (t *told) misplaced() (out []string) {
	for _, v := range t.order {
		for _, w := range t.order {
			if strings.HasPrefix(v.Name, "[auth]") || strings.HasPrefix(w.Name, "[auth]") { // told by the client
				continue
			}
			if strings.Contains(v.Name, "load .dockerignore") && strings.HasPrefix(w.Name, "[linux/") { // platforms wait for none
				continue
			}
			if v.Started == nil || w.Started == nil || !v.Started.Before(*w.Started) {
				continue
			}
			if stage(w.Name) < stage(v.Name) || slices.Contains(v.Inputs, w.Digest) && !v.Cached {
				out = append(out, fmt.Sprintf("%q started before %q", v.Name, w.Name))
			}
		}
	}
	return out
}

// partLines describes parts: in order, but those of layers, which come at once, without order, and those alike once.
func partLines(parts []*client.VertexStatus) []string {
	var first, rest []string
	for _, p := range parts {
		line := plain(part(p))
		if strings.Contains(line, "sha256:SUM |") || strings.HasPrefix(line, "pushing manifest for ") || strings.HasPrefix(line, "extracting ") {
			rest = append(rest, line)
		} else {
			first = append(first, line)
		}
	}
	slices.Sort(rest)
	return append(first, slices.Compact(rest)...)
}

// marks are what else a client shows with the name of v.
func (v *toldVertex) marks() string {
	var m []string
	if v.Cached {
		m = append(m, "cached")
	}
	if v.Started == nil {
		m = append(m, "never started")
	}
	if v.Completed == nil {
		m = append(m, "never completed")
	}
	if v.ProgressGroup != nil {
		m = append(m, "group "+v.ProgressGroup.Name)
	}
	return strings.Join(m, ", ")
}

// part describes a part of a vertex.
func part(p *client.VertexStatus) string {
	out := p.ID
	if p.Name != "" {
		out += " | name " + p.Name
	}
	if p.Total > 0 {
		out += " | of a known size"
	}
	if p.Current > 0 {
		out += " | counted"
	}
	if p.Completed == nil {
		out += " | without an end"
	}
	return out
}

var (
	sums    = regexp.MustCompile(`[0-9a-f]{64}`)
	commits = regexp.MustCompile(`(\b|\\n)[0-9a-f]{40}\b`)
	refs    = regexp.MustCompile(`of ref [0-9a-z]+::[0-9a-z]+`)
	homes   = regexp.MustCompile(`repository in /\S*?\\n`)
)

// plain replaces sums of what differs from one recording to the next.
func plain(s string) string {
	s = commits.ReplaceAllString(sums.ReplaceAllString(s, "SUM"), "${1}COMMIT")
	s = refs.ReplaceAllString(s, "of ref REF")
	return homes.ReplaceAllString(s, `repository in DIR\n`)
}
