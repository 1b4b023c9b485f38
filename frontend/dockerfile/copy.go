package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/frontend/dockerfile/lint"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

var errNoContext = errors.New("there is no build context to read from")

// A copying is COPY or ADD while it is worked through.
type copying struct {
	verb    string // "COPY" or "ADD"
	from    from
	params  *instructions.SourcesAndDest
	chown   string
	chmod   string
	exclude []string
	parents bool
	link    bool
	unpack  *bool // nil for what ADD does of its own accord: a local archive is extracted, a fetched one is not
	// checksum is what the content of the only source, a URL, must have.
	checksum digest.Digest
	// commit is what the hash of the only source, a repository, must begin with.
	commit     string
	keepGitDir *bool
}

// copy applies COPY.
func (st *state) copy(c command, ic *instructions.CopyCommand) error {
	cp := &copying{
		verb: "COPY", params: &ic.SourcesAndDest, chown: ic.Chown, chmod: ic.Chmod,
		exclude: ic.ExcludePatterns, parents: ic.Parents, link: ic.Link,
	}
	if len(c.from) > 0 {
		src := c.from[0]
		if !src.expanded {
			return fmt.Errorf("cannot copy from stage %q, it needs to be defined before current stage %q", ic.From, st.s.title)
		}
		cp.from.stage = src
	} else {
		cp.from.tree = st.t.context
	}
	for _, src := range ic.SourcePaths {
		switch classify(src) {
		case gitSource:
			return errors.New("source can't be a git ref for COPY")
		case urlSource:
			return errors.New("source can't be a URL for COPY")
		case fileSource:
		}
	}
	return st.copying(c, ic, ic.String(), cp)
}

// add applies ADD.
func (st *state) add(c command, ic *instructions.AddCommand) error {
	cp := &copying{
		verb: "ADD", params: &ic.SourcesAndDest, from: from{tree: st.t.context}, chown: ic.Chown, chmod: ic.Chmod,
		exclude: ic.ExcludePatterns, link: ic.Link, unpack: ic.Unpack, keepGitDir: ic.KeepGitDir,
	}
	if ic.Checksum != "" {
		if len(ic.SourcePaths) != 1 {
			return errors.New("checksum can't be specified for multiple sources")
		}
		src := ic.SourcePaths[0]
		kind := classify(src)
		if kind == fileSource && !isShortGitHub(src) {
			return errors.New("checksum requires HTTP(S) or Git sources")
		}
		switch kind {
		case urlSource:
			var err error
			if cp.checksum, err = digest.Parse(ic.Checksum); err != nil {
				return err
			}
		case gitSource:
			cp.commit = ic.Checksum
		case fileSource:
		}
	}
	return st.copying(c, ic, ic.String(), cp)
}

// copying applies what COPY and ADD have in common.
func (st *state) copying(c command, ic instructions.Command, text string, cp *copying) error {
	s := &copyStep{link: cp.link && cp.chmod == ""}
	s.source, s.noCache = ranges(ic.Location()), st.s.noCache
	proto := op.Copy{MkdirDst: true, Owner: parseOwner(cp.chown)}
	var err error
	if proto.Dst, err = st.destination(cp.params.DestPath); err != nil {
		return err
	}
	if err := parseMode(cp.chmod, &proto); err != nil {
		return err
	}
	record := cp.verb
	for _, f := range [][2]string{{"--chown=", cp.chown}, {"--chmod=", cp.chmod}} {
		if f[1] != "" {
			record += " " + f[0] + f[1]
		}
	}
	if cp.parents {
		record = cp.verb + " --parents" + strings.TrimPrefix(record, cp.verb)
	}
	for _, src := range cp.params.SourcePaths {
		record += " " + src
		if err := st.t.budget.spend(800 + len(src) + len(proto.Dst)); err != nil {
			return err
		}
		switch classify(src) {
		case urlSource:
			s.copies = append(s.copies, cp.url(src, proto, ic.Location()))
			continue
		case gitSource:
			c, err := cp.git(src, proto, ic.Location())
			if err != nil {
				return err
			}
			s.copies = append(s.copies, c)
			continue
		case fileSource:
		}
		if cp.from == (from{}) {
			return errNoContext
		}
		if cp.from.tree != nil && cp.from.tree == st.t.context && st.t.lintsLeft > 0 {
			out, err := st.t.excluded()
			if err != nil {
				return err
			}
			st.t.lintsLeft -= len(st.t.context.ignore)
			lint.IgnoredSource(title(cp.verb), src, out, ic.Location(), st.lint)
		}
		source, err := cp.source(st.platform.OS, src, proto)
		if err != nil {
			return err
		}
		s.copies = append(s.copies, source)
	}
	for i := range cp.params.SourceContents {
		doc := &cp.params.SourceContents[i]
		record += " <<" + doc.Path
		name, err := unixPath(st.platform.OS, doc.Path)
		if err != nil {
			return err
		}
		file := &op.Mkfile{Path: path.Join("/", name), Mode: 0o644, Data: []byte(doc.Data)}
		a := proto
		a.Src, a.Exclude = file.Path, cp.exclude
		s.copies = append(s.copies, copySource{inline: file, action: a})
	}
	record += " " + cp.params.DestPath
	s.name = st.number(c, masked(st.shown(st.t.doc.lex, text, st.vars)))
	s.nameRemotes()
	if err := st.record(masked(record)+" # buildkit", true); err != nil {
		return err
	}
	return st.addStep(s, 500)
}

// use notes what is read.
func (cp *copying) use(src string) {
	p := path.Join("/", src)
	if cp.from.stage != nil {
		cp.from.stage.use(p)
	} else {
		cp.from.tree.use(p)
	}
}

// source returns the copy of one source. What it reads is named as exactly as it can be: that is what decides whether
// it has to run again. system is the one that the paths are written for.
func (cp *copying) source(system, src string, a op.Copy) (copySource, error) {
	whole, err := unixPath(system, src)
	if err != nil {
		return copySource{}, err
	}
	cp.use(whole)
	a.FollowSymlinks, a.DirContents, a.Exclude = true, true, cp.exclude
	a.Unpack = cp.verb == "ADD"
	if cp.unpack != nil {
		a.Unpack = *cp.unpack
	}
	if cp.parents {
		// What stands before "/./" is where the copied paths begin.
		root, pattern, ok := strings.Cut(src, "/./")
		if !ok {
			root, pattern = "/", src
		}
		if root, err = unixPath(system, root); err != nil {
			return copySource{}, err
		}
		if pattern, err = unixPath(system, pattern); err != nil {
			return copySource{}, err
		}
		pattern = path.Join("/", pattern)
		if !hasWildcards(root) && !hasWildcards(pattern) {
			a.Required = []string{path.Join("/", root, pattern)}
		}
		whole = root
		if pattern != "/" {
			a.Include = []string{pattern[1:]}
		}
	}
	a.Src = path.Join("/", whole)
	a.Wildcard = hasWildcards(whole)
	// BuildKit says this when it looks for the files, or its client does, without a line.
	for _, p := range append([]string{a.Src}, a.Include...) {
		if _, err := path.Match(p, ""); err != nil && hasWildcards(p) {
			return copySource{}, fmt.Errorf("%q: %w", p, err)
		}
	}
	a.EmptyWildcard = a.Wildcard
	return copySource{from: cp.from, action: a, sel: solver.Selector{
		Paths: []string{a.Src}, Wildcard: a.Wildcard, Follow: true, Include: a.Include, Exclude: a.Exclude,
		Named: true,
	}}, nil
}

// destination returns where files go. A slash at the end says that it is a directory.
func destination(dir, dst string) string {
	p := path.Clean(absolute(dir, dst))
	if p != "/" && (dst == "" || dst == "." || strings.HasSuffix(dst, "/") || strings.HasSuffix(dst, "/.")) {
		p += "/"
	}
	return p
}

// title returns "Copy" for "COPY".
func title(verb string) string { return verb[:1] + strings.ToLower(verb[1:]) }

// hasWildcards says whether a source is a pattern.
func hasWildcards(p string) bool {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}
