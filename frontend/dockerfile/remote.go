package dockerfile

import (
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// A sourceKind is what a source of COPY or ADD, or a context, is by the form of its name. Nothing is asked of the network
// for it, so that a Dockerfile means the same whether or not a host answers.
type sourceKind int

const (
	fileSource sourceKind = iota // a path in the build context, or for a context a directory of the client's
	urlSource                    // one file that is fetched by HTTP
	gitSource                    // a Git repository
)

var (
	schemeRegexp = regexp.MustCompile(`^([a-zA-Z0-9]+)://`)
	// scpRegexp is the form of a Git remote that has no scheme: "git@host:path?query#ref".
	scpRegexp = regexp.MustCompile(`^[a-zA-Z0-9-_]+@[a-zA-Z0-9-.]+:(.*?)(?:\?(.*?))?(?:#(.*))?$`)
)

// classify says what a source of COPY or ADD is. An http URL is a Git repository only if its path ends in ".git"; what
// cannot be parsed as a URL is one to fetch if it begins as that does, and else a path. The deprecated "github.com/…"
// is a path here, since it may well be one.
func classify(src string) sourceKind {
	if isGit(src) {
		return gitSource
	}
	// Only in lower case: "HTTP://" is a path, as in BuildKit.
	if strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://") {
		return urlSource
	}
	return fileSource
}

// classifyContext is classify for the value that a user gave as the main context, where "github.com/…" is a repository.
func classifyContext(ref string) sourceKind {
	if isShortGitHub(ref) {
		return gitSource
	}
	return classify(ref)
}

// isShortGitHub says whether ref is a repository at GitHub by its name alone.
func isShortGitHub(ref string) bool {
	if !strings.HasPrefix(ref, "github.com/") {
		return false
	}
	_, err := url.Parse(ref)
	return err == nil
}

// isGit says whether ref names a Git repository in a way that nothing else does. Whether its fragment and query make
// sense is another question.
func isGit(ref string) bool {
	if strings.HasPrefix(ref, "./") || strings.HasPrefix(ref, "../") || strings.HasPrefix(ref, "github.com/") {
		return false
	}
	m := schemeRegexp.FindStringSubmatch(ref)
	if m == nil {
		scp := scpRegexp.FindStringSubmatch(ref)
		if scp == nil {
			return false
		}
		_, err := url.ParseQuery(scp[2])
		return err == nil
	}
	u, err := url.Parse(ref)
	if err != nil {
		return false
	}
	switch strings.ToLower(m[1]) {
	case "git", "ssh":
		return true
	case "http", "https":
		return strings.HasSuffix(u.Path, ".git")
	}
	return false
}

// url returns the copy of one file that is fetched. It is not extracted unless that is asked for.
func (cp *copying) url(src string, a op.Copy, where []parser.Range) copySource {
	get := &op.HTTP{URL: src, Checksum: cp.checksum, Filename: urlFileName(src)}
	tr := &tree{src: get, where: where}
	a.Src, a.Exclude = "/"+get.Filename, cp.exclude
	a.Unpack = cp.unpack != nil && *cp.unpack
	tr.use(a.Src)
	return copySource{from: from{tree: tr}, action: a, sel: solver.Selector{Paths: []string{a.Src}, Exclude: a.Exclude}}
}

// urlFileName returns what a file that is fetched is called where the destination is a directory: the last component of
// the URL's path, without its query.
func urlFileName(src string) string {
	name := "__unnamed__"
	if u, err := url.Parse(src); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" {
			name = base
		}
	}
	return op.SafeName(name)
}

// nameRemotes gives the fetching of each source the name of the step, as it is the step to people.
func (s *copyStep) nameRemotes() {
	for i := range s.copies {
		if tr := s.copies[i].from.tree; tr != nil && tr.label == "" {
			tr.label = s.name
		}
	}
}
