package op

import (
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/boxbuild/boxbuild/solver"
)

// Names of the secrets that let a build into repositories, as in BuildKit. "<name>.<host>" goes before "<name>".
const (
	GitAuthToken  = "GIT_AUTH_TOKEN"
	GitAuthHeader = "GIT_AUTH_HEADER"
)

// Git is a tree of a Git repository.
type Git struct {
	// Remote is the repository, as the git program takes it, without a fragment or a query. It may have credentials, so
	// it is never shown: String is.
	Remote string
	// Ref is a branch, a tag, a full name or a full hash; empty for the default branch. Pinning makes it a full name,
	// or empty for a hash.
	Ref string
	// Subdir is the directory that is the result's root, relative; empty for the whole tree.
	Subdir string
	// Checksum is what the hash of the commit, or of the tag, has to begin with.
	Checksum string
	// KeepGitDir keeps a .git directory, unless there is a Subdir.
	KeepGitDir bool
	// SkipSubmodules leaves empty directories for submodules.
	SkipSubmodules bool
	// CommitTime gives everything the time of the commit, LLB's git.mtime=commit.
	CommitTime bool
	// FetchByCommit takes Checksum, a full hash, for the commit without asking the remote what Ref means.
	FetchByCommit bool

	// Bundle is where a Git bundle is that has the commit, for a fetch without the remote: "docker-image+blob://…@sha256:…"
	// or "oci-layout+blob://…@sha256:…"; empty for none. It wants a Checksum. BundleSession and BundleStore name the
	// client and its directory for the latter; empty for those of the locator.
	Bundle, BundleSession, BundleStore string
	// CheckoutBundle makes the result a single file "bundle", a Git bundle of the commit, instead of its tree.
	CheckoutBundle bool
	// Signature, if not nil, is how the commit or the tag has to be signed.
	Signature *GitSignature

	// AuthTokenSecret and AuthHeaderSecret name secrets of the client: a password, and an Authorization header.
	AuthTokenSecret, AuthHeaderSecret string
	// SSH is the ID of the client's agent for an ssh remote; empty for none.
	SSH string
	// KnownHosts is the content of a known_hosts file; empty takes any host key.
	KnownHosts string

	// Written is the reference as the user wrote it, as RedactGit shows it: for names of steps, not for keys.
	Written string
	// Commit is the full hash of the commit, set by pinning; of an annotated tag itself with KeepGitDir.
	Commit string
}

// A GitSignature says who has to have signed a commit or an annotated tag of it.
type GitSignature struct {
	// PublicKeys are armored OpenPGP keys or lines of authorized_keys.
	PublicKeys string
	// RejectExpired refuses keys that have expired by now, whenever they signed.
	RejectExpired bool
	// RequireSignedTag wants the signature to be that of a tag, and IgnoreSignedTag that of the commit.
	RequireSignedTag, IgnoreSignedTag bool
}

// Pinned implements Source.
func (g *Git) Pinned() bool { return g.Commit != "" }

// Keeps says whether the result has a .git directory.
func (g *Git) Keeps() bool { return g.KeepGitDir && path.Join("/", g.Subdir) == "/" }

// WriteKey implements solver.Op. The hash of a commit names all of its tree, submodules included, so neither the remote
// nor how it lets us in are part of the key of a pinned source; except that a kept .git directory names both.
func (g *Git) WriteKey(h *solver.Hasher) {
	h.Version("git", 1)
	if g.Commit != "" {
		h.Str("commit", g.Commit)
	} else {
		h.Str("remote", g.Remote)
		h.Str("checksum", g.Checksum)
		h.Bool("fetchbycommit", g.FetchByCommit)
		h.Str("authtoken", g.AuthTokenSecret)
		h.Str("authheader", g.AuthHeaderSecret)
		h.Str("ssh", g.SSH)
		h.Str("knownhosts", g.KnownHosts)
		if g.Bundle != "" {
			h.Strs("bundle", []string{g.Bundle, g.BundleSession, g.BundleStore})
		}
	}
	if g.Commit == "" || g.Keeps() {
		h.Str("ref", g.Ref)
	}
	if g.Keeps() {
		h.Str("keepgitdir", RedactGit(g.Remote))
	}
	if d := path.Join("/", g.Subdir); d != "/" {
		h.Str("subdir", d)
	}
	h.Bool("skipsubmodules", g.SkipSubmodules)
	h.Bool("committime", g.CommitTime)
	if g.CheckoutBundle {
		h.Str("checkoutbundle", g.Ref) // the bundle has the name
	}
	if s := g.Signature; s != nil {
		// In the key, so that what somebody else has fetched without a check never passes for checked.
		h.Strs("signature", []string{
			s.PublicKeys, strconv.FormatBool(s.RejectExpired), strconv.FormatBool(s.RequireSignedTag), strconv.FormatBool(s.IgnoreSignedTag),
		})
	}
}

// String has neither the scheme nor credentials, as BuildKit's identifiers: "git://host/path#ref:subdir".
func (g *Git) String() string {
	s := "git://" + g.address()
	ref := g.Ref
	if ref == "" {
		ref = g.Commit
	}
	if ref != "" || g.Subdir != "" {
		s += "#" + ref
		if g.Subdir != "" {
			s += ":" + g.Subdir
		}
	}
	return s
}

// address is host and path of the remote.
func (g *Git) address() string {
	if strings.Contains(g.Remote, "://") {
		if u, err := url.Parse(g.Remote); err == nil {
			return u.Host + path.Join("/", u.Path)
		}
		return "invalid" // it may have credentials anywhere
	}
	_, rest, ok := strings.Cut(g.Remote, "@")
	if !ok {
		rest = g.Remote
	}
	host, p, _ := strings.Cut(rest, ":")
	return host + path.Join("/", p)
}

// RedactGit returns a reference to a repository as it may be shown: for http and https without user and password, since
// a user may be a token, and for others without a password.
func RedactGit(raw string) string {
	const mask = "xxxxx"
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return raw
	}
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	i := strings.LastIndexByte(authority, '@')
	if i < 0 {
		return raw
	}
	user, _, has := strings.Cut(authority[:i], ":")
	if scheme = strings.ToLower(scheme); scheme != "ssh" && user != "" {
		user = mask
	}
	if has {
		user += ":" + mask
	}
	return scheme + "://" + user + authority[i:] + tail
}

// Question returns what pinning g depends on and nothing else, so that equal questions have one answer in a build. Whether
// the tag or its commit is wanted is none of it: both are of one answer.
func (g *Git) Question() *Git {
	return &Git{
		Remote: g.Remote, Ref: g.Ref, Checksum: g.Checksum, FetchByCommit: g.FetchByCommit,
		AuthTokenSecret: g.AuthTokenSecret, AuthHeaderSecret: g.AuthHeaderSecret, SSH: g.SSH, KnownHosts: g.KnownHosts,
		Bundle: g.Bundle, BundleSession: g.BundleSession, BundleStore: g.BundleStore, Signature: g.Signature,
	}
}
