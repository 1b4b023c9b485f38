package llb

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver/op"
)

// decodeHTTP decodes a file of a URL.
func decodeHTTP(raw string, a *attrs) *op.HTTP {
	s := &op.HTTP{URL: raw}
	if v := a.text(pb.AttrHTTPChecksum, string(pb.CapSourceHTTPChecksum)); v != "" {
		d, err := digest.Parse(v) // any kind: it names no file of the store
		a.fail(pb.AttrHTTPChecksum, err)
		s.Checksum = d
	}
	s.Filename = a.text(pb.AttrHTTPFilename, "")
	s.Perm = uint32(a.number(pb.AttrHTTPPerm, string(pb.CapSourceHTTPPerm), 0, 0o7777))
	s.UID = int(a.number(pb.AttrHTTPUID, string(pb.CapSourceHTTPUIDGID), 0, maxID))
	s.GID = int(a.number(pb.AttrHTTPGID, string(pb.CapSourceHTTPUIDGID), 0, maxID))
	s.AuthHeaderSecret = a.text(pb.AttrHTTPAuthHeaderSecret, string(pb.CapSourceHTTPAuth))
	for k := range a.values {
		if field, ok := strings.CutPrefix(k, pb.AttrHTTPHeaderPrefix); ok {
			v := a.text(k, string(pb.CapSourceHTTPHeader))
			switch name := http.CanonicalHeaderKey(field); name {
			case "Accept", "User-Agent":
				s.Header = append(s.Header, op.HTTPHeader{Name: name, Value: v})
			default:
				a.fail(k, errors.New("only Accept and User-Agent can be set"))
			}
		}
	}
	slices.SortFunc(s.Header, func(x, y op.HTTPHeader) int { return strings.Compare(x.Name, y.Name) })
	key := a.text(pb.AttrHTTPSignatureVerifyPubKey, string(pb.CapSourceHTTPSignatureVerify))
	sig := a.text(pb.AttrHTTPSignatureVerify, string(pb.CapSourceHTTPSignatureVerify))
	if (key == "") != (sig == "") {
		a.fail(pb.AttrHTTPSignatureVerify, fmt.Errorf("neither goes without the other: it, and %s", pb.AttrHTTPSignatureVerifyPubKey))
	} else if key != "" {
		s.Signature = &op.HTTPSignature{PublicKeys: key, Signature: sig}
	}
	if v := a.text(attrDigest, ""); v != "" {
		d, err := digest.Parse(v)
		a.fail(attrDigest, err)
		s.Digest = d
	}
	s.Name = a.text(attrName, "")
	if s.Name != "" && s.Name != op.SafeName(s.Name) || (s.Name == "") != (s.Digest == "") {
		a.fail(attrName, fmt.Errorf("invalid name %q", s.Name))
	}
	if n := a.number(attrModified, "", -1<<40, 1<<40); a.values[attrModified] != "" {
		s.Modified = time.Unix(n, 0).UTC()
	}
	return s
}

// gitTransport is what a remote begins with that says how it is spoken to: a scheme, or the user and host of ssh's short
// form.
var gitTransport = regexp.MustCompile(`^(?i:https?|ssh|git)://|^[a-zA-Z0-9-_]+@[a-zA-Z0-9-.]+:`)

// decodeGit decodes a repository. The identifier has host, path and fragment, so that it is the same for every way to the
// repository; which way is an attribute.
func decodeGit(id string, a *attrs) (*op.Git, error) {
	remote, fragment, _ := strings.Cut(id, "#")
	if !gitTransport.MatchString(remote) {
		remote = "https://" + remote
	}
	if full := a.text(pb.AttrFullRemoteURL, string(pb.CapSourceGitFullURL)); full != "" {
		if remote = full; !gitTransport.MatchString(remote) {
			remote = "https://" + remote
		}
	}
	g := &op.Git{Remote: remote}
	if _, err := url.Parse(remote); err != nil && strings.Contains(remote, "://") {
		return nil, errors.New("invalid URL of a Git repository") // it may have credentials anywhere
	}
	ref, subdir, _ := strings.Cut(fragment, ":")
	g.Ref, g.Subdir = ref, strings.TrimPrefix(clean(subdir), "/")
	if strings.HasPrefix(ref, "-") {
		return nil, fmt.Errorf("invalid git ref %q", ref)
	}
	g.KeepGitDir = a.flag(pb.AttrKeepGitDir, string(pb.CapSourceGitKeepDir))
	g.AuthTokenSecret = a.text(pb.AttrAuthTokenSecret, string(pb.CapSourceGitHTTPAuth))
	g.AuthHeaderSecret = a.text(pb.AttrAuthHeaderSecret, string(pb.CapSourceGitHTTPAuth))
	g.KnownHosts = a.text(pb.AttrKnownSSHHosts, string(pb.CapSourceGitKnownSSHHosts))
	g.SSH = a.text(pb.AttrMountSSHSock, string(pb.CapSourceGitMountSSHSock))
	g.Checksum = a.text(pb.AttrGitChecksum, string(pb.CapSourceGitChecksum))
	g.SkipSubmodules = a.flag(pb.AttrGitSkipSubmodules, string(pb.CapSourceGitSkipSubmodules))
	switch v := a.text(pb.AttrGitMTime, string(pb.CapSourceGitMTime)); v {
	case "", "checkout":
	case "commit":
		g.CommitTime = true
	default:
		a.fail(pb.AttrGitMTime, fmt.Errorf("invalid value %q", v))
	}
	g.FetchByCommit = a.flag(pb.AttrGitFetchByCommit, string(pb.CapSourceGitFetchByCommit))
	decodeSignature(g, a)
	decodeBundle(g, a)
	g.Commit = a.text(attrCommit, "")
	if g.Commit != "" && !isHash(g.Commit) {
		a.fail(attrCommit, errors.New("not the full hash of a commit"))
	}
	return g, nil
}

func decodeSignature(g *op.Git, a *attrs) {
	const c = string(pb.CapSourceGitSignatureVerify)
	s := op.GitSignature{
		PublicKeys:       a.text(pb.AttrGitSignatureVerifyPubKey, c),
		RejectExpired:    a.flag(pb.AttrGitSignatureVerifyRejectExpired, c),
		RequireSignedTag: a.flag(pb.AttrGitSignatureVerifyRequireSignedTag, c),
		IgnoreSignedTag:  a.flag(pb.AttrGitSignatureVerifyIgnoreSignedTag, c),
	}
	if s != (op.GitSignature{}) {
		g.Signature = &s
	}
}

// decodeBundle decodes what a repository has to do with bundles. What contradicts itself is an error with BuildKit's words.
func decodeBundle(g *op.Git, a *attrs) {
	g.Bundle = a.text(pb.AttrGitBundle, string(pb.CapSourceGitBundle))
	g.BundleSession = a.text(pb.AttrOCILayoutSessionID, "")
	g.BundleStore = a.text(pb.AttrOCILayoutStoreID, "")
	g.CheckoutBundle = a.flag(pb.AttrGitCheckoutBundle, string(pb.CapSourceGitCheckoutBundle))
	if g.Bundle != "" {
		scheme, ref, _ := strings.Cut(g.Bundle, "://")
		_, d, err := splitRef(ref, false)
		switch {
		case scheme != schemeImageBlob && scheme != schemeLayoutBlob:
			err = fmt.Errorf("git.bundle locator scheme %q is not supported; expected %q or %q", scheme, schemeImageBlob, schemeLayoutBlob)
		case err == nil && d == "":
			err = errors.New("it has no digest")
		case g.Checksum == "":
			err = errors.New("git.bundle requires git.checksum to be set")
		case isHash(g.Ref) && !strings.HasPrefix(g.Ref, g.Checksum):
			err = fmt.Errorf("expected checksum to match %s, got %s", g.Checksum, g.Ref)
		}
		a.fail(pb.AttrGitBundle, err)
	}
	if g.CheckoutBundle {
		switch {
		case g.KeepGitDir:
			a.fail(pb.AttrGitCheckoutBundle, errors.New("git.checkoutbundle is incompatible with git.keepgitdir"))
		case g.Subdir != "":
			a.fail(pb.AttrGitCheckoutBundle, errors.New("git.checkoutbundle is incompatible with git.subdir"))
		}
	}
}

// isHash says whether s is the full hash of a commit.
func isHash(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}
