package dockerfile

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/boxbuild/boxbuild/solver/op"
)

// A gitRef is a reference to a Git repository taken apart: "https://host/r.git?query#ref:subdir" and the other forms that
// isGit knows. Where the same is said twice, in the query and in the fragment, it has to be the same.
type gitRef struct {
	remote string // without query and fragment
	shown  string // all of it, without credentials
	ssh    bool
	ref    string
	subdir string // relative
	// checksum is "checksum=" or "commit=": what the hash has to begin with.
	checksum      string
	keepGitDir    *bool
	submodules    *bool
	commitTime    bool
	fetchByCommit bool
}

// parseGitRef takes a reference apart for which isGit, or isShortGitHub, holds. Errors are about what is asked of the
// repository, and have BuildKit's words.
func parseGitRef(text string) (*gitRef, error) {
	g := &gitRef{shown: op.RedactGit(text)}
	var query url.Values
	var fragment string
	switch scp := scpRegexp.FindStringSubmatch(text); {
	case isShortGitHub(text):
		u, err := url.Parse("https://" + text)
		if err != nil {
			return nil, fmt.Errorf("invalid Git URL: %w", hideURL(err))
		}
		query, fragment = g.fromURL(u)
	case scp != nil && schemeRegexp.FindString(text) == "":
		var err error
		if query, err = url.ParseQuery(scp[2]); err != nil {
			return nil, fmt.Errorf("invalid query in scp-style url: %w", err)
		}
		fragment, g.ssh = scp[3], true
		g.remote, _, _ = strings.Cut(text, "#")
		// The path is as short as it can be: it ends at the first "?".
		g.remote, _, _ = strings.Cut(g.remote, "?")
	default:
		u, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("invalid Git URL: %w", hideURL(err))
		}
		query, fragment = g.fromURL(u)
	}
	ref, subdir, _ := strings.Cut(fragment, ":")
	g.ref, g.subdir = ref, strings.TrimPrefix(path.Join("/", subdir), "/")
	return g, g.query(query)
}

// hideURL is the reason of an error of url.Parse, without the text that could not be parsed, which may have a password.
func hideURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

func (g *gitRef) fromURL(u *url.URL) (query url.Values, fragment string) {
	query, fragment = u.Query(), u.Fragment
	bare := *u
	bare.RawQuery, bare.ForceQuery, bare.Fragment, bare.RawFragment = "", false, "", ""
	g.remote, g.ssh = bare.String(), u.Scheme == "ssh"
	return query, fragment
}

// query applies the query.
func (g *gitRef) query(query url.Values) error {
	var tag, branch string
	// In order, so that of several errors it is always the same.
	for _, key := range slices.Sorted(maps.Keys(query)) {
		values := query[key]
		if len(values) > 1 {
			return fmt.Errorf("query %q has multiple values", key)
		}
		v := values[0]
		var flag *bool
		switch key {
		case "keep-git-dir", "submodules", "fetch-by-commit":
			b := true
			if v != "" {
				var err error
				if b, err = strconv.ParseBool(v); err != nil {
					return fmt.Errorf("invalid %s value: %q", key, v)
				}
			}
			flag = &b
		default:
			if v == "" {
				return fmt.Errorf("query %q has no value", key)
			}
		}
		var err error
		switch key {
		case "ref":
			err = agree("ref", &g.ref, v)
		case "tag":
			tag = v
		case "branch":
			branch = v
		case "subdir":
			// Compared as it stands, as in BuildKit: "subdir=/x#:x" is refused.
			err = agree("subdir", &g.subdir, v)
		case "checksum", "commit":
			err = agree("checksum", &g.checksum, v)
		case "keep-git-dir":
			g.keepGitDir = flag
		case "submodules":
			g.submodules = flag
		case "mtime":
			if v != "checkout" && v != "commit" {
				err = fmt.Errorf("invalid mtime value: %q (must be \"checkout\" or \"commit\")", v)
			}
			g.commitTime = v == "commit"
		case "fetch-by-commit":
			g.fetchByCommit = *flag
		default:
			err = fmt.Errorf("unexpected query %q", key)
		}
		if err != nil {
			return err
		}
	}
	return g.named(tag, branch)
}

// named applies "tag=" and "branch=", which say of which kind the ref is.
func (g *gitRef) named(tag, branch string) error {
	if tag != "" {
		if err := agree("ref", &g.ref, prefixed("refs/tags/", tag)); err != nil {
			return err
		}
	}
	if branch == "" {
		return nil
	}
	if tag != "" {
		return errors.New("branch conflicts with tag")
	}
	return agree("ref", &g.ref, prefixed("refs/heads/", branch))
}

func prefixed(prefix, name string) string { return prefix + strings.TrimPrefix(name, prefix) }

// agree sets what is not set yet, and refuses another value than the one that is.
func agree(what string, at *string, v string) error {
	if *at != "" && *at != v {
		return fmt.Errorf("%s conflicts: %q vs %q", what, *at, v)
	}
	*at = v
	return nil
}

// op returns the operation that fetches g.
func (g *gitRef) op() *op.Git {
	o := &op.Git{
		Remote: g.remote, Ref: g.ref, Subdir: strings.TrimPrefix(path.Join("/", g.subdir), "/"), Checksum: g.checksum,
		KeepGitDir: g.keepGitDir != nil && *g.keepGitDir, SkipSubmodules: g.submodules != nil && !*g.submodules,
		CommitTime: g.commitTime, FetchByCommit: g.fetchByCommit, Written: g.shown,
		AuthTokenSecret: op.GitAuthToken, AuthHeaderSecret: op.GitAuthHeader,
	}
	if g.ssh {
		o.SSH = "default"
	}
	return o
}
