package registry

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	// dockerHub is the host of names without a host.
	dockerHub = "docker.io"
	// dockerHubAddr is where Docker Hub's registry really is.
	dockerHubAddr = "registry-1.docker.io"
	// dockerHubIndex is the name that credentials for Docker Hub are kept under; dockerHubKey is its older, longer form.
	dockerHubIndex = "index.docker.io"
	dockerHubKey   = "https://index.docker.io/v1/"
)

// A refError is a name that cannot be one: of the class errdefs.ErrInvalidArgument.
type refError struct {
	what, ref string
	err       error
}

func (e *refError) Error() string { return fmt.Sprintf("parsing %s %q: %v", e.what, e.ref, e.err) }

func (e *refError) Unwrap() error { return e.err }

func (e *refError) InvalidParameter() {}

// A Repo names a repository: a registry's host as the user wrote it, in lower case, with the port if one was given, and
// the path. The zero Repo is invalid. Repo implements authn.Resource.
type Repo struct {
	Host string // "docker.io", "localhost:5000", "[::1]:5000"
	Path string // "library/busybox"
}

// ParseRepo reads a repository's name as docker does: "busybox" is docker.io/library/busybox. A tag or digest is an
// error.
func ParseRepo(s string) (Repo, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Repo{}, &refError{what: "repository", ref: s, err: err}
	}
	if !reference.IsNameOnly(named) {
		return Repo{}, &refError{what: "repository", ref: s, err: errors.New("it has a tag or digest")}
	}
	return repoOf(named), nil
}

// repoOf writes the host in lower case, unless its capitals are all that tells it from a path: "Team/app" is an image on
// the host Team, but "team/app" one on Docker Hub.
func repoOf(named reference.Named) Repo {
	r := Repo{Host: strings.ToLower(reference.Domain(named)), Path: reference.Path(named)}
	if again, err := reference.ParseNormalizedNamed(r.String()); err != nil || reference.Domain(again) != r.Host {
		r.Host = reference.Domain(named)
	}
	return r
}

// String returns the canonical name, with the host.
func (r Repo) String() string { return r.Host + "/" + r.Path }

// RegistryStr returns the host under which credentials are kept; for Docker Hub that is index.docker.io, as
// go-containerregistry's keychains expect.
func (r Repo) RegistryStr() string {
	if r.Host == dockerHub {
		return dockerHubIndex
	}
	return r.Host
}

// Tag returns the reference of a tag in the repository.
func (r Repo) Tag(tag string) Ref { return Ref{Repo: r, Tag: tag} }

// At returns the reference of a manifest in the repository by its digest.
func (r Repo) At(d v1.Hash) Ref { return Ref{Repo: r, Digest: d} }

// check says whether r can be made part of a URL. Repos that did not come from a parser are checked like any other.
func (r Repo) check() error {
	got, err := ParseRepo(r.String())
	if err != nil {
		return err
	}
	if got != r {
		return fmt.Errorf("repository %q is not in canonical form, which is %q", r, got)
	}
	return nil
}

// A Ref names a manifest or index: by tag, by digest, or by both, in which case the tag is only for people to read and
// the digest decides.
type Ref struct {
	Repo
	Tag    string  // empty only if Digest is set
	Digest v1.Hash // zero if there is none
}

// ParseRef reads a reference as docker does: "busybox" is docker.io/library/busybox:latest.
func ParseRef(s string) (Ref, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Ref{}, &refError{what: "reference", ref: s, err: err}
	}
	ref := Ref{Repo: repoOf(named)}
	if d, ok := named.(reference.Digested); ok {
		if ref.Digest, err = ParseDigest(d.Digest().String()); err != nil {
			return Ref{}, &refError{what: "reference", ref: s, err: err}
		}
	}
	switch t, ok := named.(reference.Tagged); {
	case ok:
		ref.Tag = t.Tag()
	case ref.Digest == v1.Hash{}:
		ref.Tag = "latest"
	}
	return ref, nil
}

// String returns the canonical form.
func (r Ref) String() string {
	s := r.Repo.String()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if (r.Digest != v1.Hash{}) {
		s += "@" + r.Digest.String()
	}
	return s
}

// name returns what stands for the reference in a URL: the digest if there is one, else the tag.
func (r Ref) name() string {
	if (r.Digest != v1.Hash{}) {
		return r.Digest.String()
	}
	return r.Tag
}

// check says whether r can be made part of a URL.
func (r Ref) check() error {
	got, err := ParseRef(r.String())
	if err != nil {
		return err
	}
	if got != r {
		return fmt.Errorf("reference %q is not in canonical form, which is %q", r, got)
	}
	return nil
}

// isLocalName says whether a host's name, as written, is one that plain HTTP is spoken with: localhost, an address in
// 127.0.0.0/8, or [::1], with or without a port. What a name resolves to never counts, since whoever answers DNS could
// then turn TLS off.
func isLocalName(host string) bool {
	name := hostname(host)
	if strings.EqualFold(name, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	if err != nil || ip.Zone() != "" {
		return false
	}
	return ip.Is4() && ip.IsLoopback() || ip == netip.IPv6Loopback()
}

// hostname returns host without its port and brackets.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}
