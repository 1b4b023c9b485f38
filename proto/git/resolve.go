package git

import (
	"context"
	"fmt"
	"regexp"
	"strings"
)

// IsHash says whether s is the full hash of an object, of a SHA-1 or a SHA-256 repository, in lower case.
func IsHash(s string) bool {
	if len(s) != 40 && len(s) != 64 {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}

var hexDigits = regexp.MustCompile(`^[a-fA-F0-9]+$`)

// A Query asks what a ref of a remote means.
type Query struct {
	Remote Remote
	// Ref is a branch, a tag, a full name ("refs/pull/1/head"), or a full hash; empty for the default branch.
	Ref string
	// Checksum, if not empty, is what the hash has to begin with.
	Checksum string
	// KeepTag asks for the hash of an annotated tag itself, rather than of its commit alone.
	KeepTag bool
	// ByCommit takes Checksum, a full hash, for the commit without asking the remote; Ref is a name for it only.
	ByCommit bool
}

// A Resolved is what a ref means.
type Resolved struct {
	Ref    string // the full name; empty if a hash was asked for
	Commit string // the hash of a commit, or of a tag of one
	Peeled string // the hash of the commit, as the remote says, if Commit is that of a tag
}

// CheckRef refuses what is no name of a ref and would mean something else to git. The text of a leading dash's error is
// BuildKit's.
func CheckRef(ref string) error {
	if strings.HasPrefix(ref, "-") {
		return fmt.Errorf("invalid git ref %q", ref)
	}
	for _, c := range ref {
		if c <= ' ' || c == 0x7f {
			return fmt.Errorf("invalid git ref %q", ref)
		}
	}
	return nil
}

// Resolve finds the commit that q means. Hashes are taken as they are: whether the remote has them, Checkout finds out.
// Of equal names a branch goes before a tag, and a name below refs/ before both, as for BuildKit.
func (c *Client) Resolve(ctx context.Context, q *Query) (Resolved, error) {
	if err := CheckRef(q.Ref); err != nil {
		return Resolved{}, err
	}
	if q.Checksum != "" && !hexDigits.MatchString(q.Checksum) {
		return Resolved{}, fmt.Errorf("invalid checksum %s for Git URL, expected hex commit hash", q.Checksum)
	}
	if IsHash(q.Ref) {
		if !strings.HasPrefix(q.Ref, q.Checksum) {
			return Resolved{}, fmt.Errorf("expected checksum to match %s, got %s", q.Checksum, q.Ref)
		}
		return Resolved{Commit: q.Ref}, nil
	}
	if q.ByCommit {
		return q.byCommit()
	}
	if q.Remote.Bundle != nil && q.Ref == "" {
		if !IsHash(q.Checksum) {
			return Resolved{}, fmt.Errorf("a git bundle without a ref requires a full commit SHA checksum, got %q", q.Checksum)
		}
		return Resolved{Commit: q.Checksum}, nil
	}
	if q.Remote.Bundle != nil {
		return c.resolveBundle(ctx, q)
	}
	acc, err := c.open(&q.Remote)
	if err != nil {
		return Resolved{}, err
	}
	defer acc.close()
	args := []string{"ls-remote", "--", acc.url, q.Ref, q.Ref + "^{}"}
	if q.Ref == "" {
		args = []string{"ls-remote", "--symref", "--", acc.url, "HEAD"}
	}
	out, err := c.run(ctx, &command{args: args, access: acc})
	if err != nil {
		return Resolved{}, fmt.Errorf("fetching remote %s: %w", acc.url, err)
	}
	refs := parseRefs(string(out))
	if q.Ref == "" {
		return defaultBranch(refs, q, acc.url)
	}
	return pick(refs, q, acc.url)
}

// byCommit is Resolve without the remote.
func (q *Query) byCommit() (Resolved, error) {
	if q.Checksum == "" {
		return Resolved{}, fmt.Errorf("fetch-by-commit requires a checksum or a commit SHA ref")
	}
	if !IsHash(q.Checksum) {
		return Resolved{}, fmt.Errorf("fetch-by-commit requires a full commit SHA checksum, got %q", q.Checksum)
	}
	ref := q.Ref
	if ref != "" && !strings.HasPrefix(ref, "refs/") {
		ref = "refs/heads/" + ref
	}
	return Resolved{Ref: ref, Commit: q.Checksum}, nil
}

// parseRefs reads the output of ls-remote: hashes by name, and under "@name" what a symbolic ref stands for.
func parseRefs(out string) map[string]string {
	refs := map[string]string{}
	for line := range strings.SplitSeq(out, "\n") {
		hash, name, ok := strings.Cut(line, "\t")
		if !ok {
			continue
		}
		if target, ok := strings.CutPrefix(hash, "ref: "); ok {
			refs["@"+name] = target
			continue
		}
		refs[name] = hash
	}
	return refs
}

func defaultBranch(refs map[string]string, q *Query, url string) (Resolved, error) {
	r := Resolved{Ref: refs["@HEAD"], Commit: refs["HEAD"]}
	if !strings.HasPrefix(r.Ref, "refs/heads/") || CheckRef(r.Ref) != nil {
		return Resolved{}, fmt.Errorf("could not find default branch for repository: %s", url)
	}
	return r, q.check(r.Commit, "")
}

// pick chooses the ref that q.Ref means. It may be short, or full, or lack "refs/".
func pick(refs map[string]string, q *Query, url string) (Resolved, error) {
	full := "refs/" + strings.TrimPrefix(q.Ref, "refs/")
	head := "refs/heads/" + strings.TrimPrefix(q.Ref, "refs/heads/")
	tag := "refs/tags/" + strings.TrimPrefix(q.Ref, "refs/tags/")
	r, peeled := Resolved{}, ""
	for _, name := range []string{full, head, tag} {
		if r.Commit = refs[name]; r.Commit != "" {
			r.Ref = name
			break
		}
	}
	if r.Commit == "" {
		return Resolved{}, fmt.Errorf("repository does not contain ref %s at %s%s", q.Ref, url, q.hint())
	}
	if r.Ref == tag {
		peeled = refs[tag+"^{}"]
	}
	if err := q.check(r.Commit, peeled); err != nil {
		return Resolved{}, err
	}
	switch {
	case q.KeepTag:
		r.Peeled = peeled
	case peeled != "":
		r.Commit = peeled
	}
	return r, nil
}

// hint says what may have been meant by a ref that is not there.
func (q *Query) hint() string {
	if len(q.Ref) >= 4 && strings.Trim(q.Ref, "0123456789abcdef") == "" {
		return " (a commit has to be named by its full hash)"
	}
	return ""
}

// check compares what was found with what was asked for: hash, or for an annotated tag also the one of its commit.
func (q *Query) check(hash, peeled string) error {
	for _, h := range []string{hash, peeled} {
		if h != "" && !IsHash(h) {
			return fmt.Errorf("invalid commit sha %q", h)
		}
	}
	if hash == "" {
		return fmt.Errorf("invalid commit sha %q", hash)
	}
	if strings.HasPrefix(hash, q.Checksum) || (peeled != "" && strings.HasPrefix(peeled, q.Checksum)) {
		return nil
	}
	if peeled != "" {
		hash += " or " + peeled
	}
	return fmt.Errorf("expected checksum to match %s, got %s", q.Checksum, hash)
}
