package llb

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver/op"
)

// A sourcing is a source while it is written.
type sourcing struct {
	*encoding
	attrs map[string]string
}

// set writes an attribute that is not empty, and says which capability it needs, if any.
func (s *sourcing) set(name, value string, c apicaps.CapID) {
	if value == "" {
		return
	}
	s.attrs[name] = value
	s.needIf(c != "", c)
}

func (s *sourcing) flag(name string, v bool, c apicaps.CapID) {
	if v {
		s.set(name, "true", c)
	}
}

func (s *sourcing) number(name string, n int, c apicaps.CapID) {
	if n != 0 {
		s.set(name, strconv.Itoa(n), c)
	}
}

func (s *sourcing) list(name string, l []string, c apicaps.CapID) {
	if len(l) > 0 {
		b, err := json.Marshal(l)
		if err != nil {
			panic(fmt.Sprintf("llb: writing a list of strings: %v", err))
		}
		s.set(name, string(b), c)
	}
}

// perm writes permission bits as BuildKit's client does.
func (s *sourcing) perm(p uint32, c apicaps.CapID) {
	if p != 0 {
		s.set(pb.AttrHTTPPerm, "0"+strconv.FormatUint(uint64(p), 8), c)
	}
}

// source is the reverse of wired.source.
func (e *encoding) source(src op.Source) error {
	s := &sourcing{encoding: e, attrs: make(map[string]string)}
	var id string
	switch x := src.(type) {
	case *op.Image:
		id, e.out.Platform = s.image(x), pbPlatform(x.Platform)
	case *op.OCILayout:
		id, e.out.Platform = s.layout(x), pbPlatform(x.Platform)
	case *op.Blob:
		id = s.blob(x)
	case *op.Local:
		id = s.local(x)
	case *op.HTTP:
		id = s.http(x)
	case *op.Git:
		id = s.git(x)
	default:
		return fmt.Errorf("LLB has no source for %T", x)
	}
	e.out.Op = &pb.Op_Source{Source: &pb.SourceOp{Identifier: id, Attrs: s.attrs}}
	return e.finish(nil)
}

// withDigest returns a reference with a digest, if there is one.
func withDigest(ref string, d digest.Digest) string {
	if d == "" {
		return ref
	}
	return ref + "@" + d.String()
}

func (s *sourcing) image(i *op.Image) string {
	s.need(pb.CapSourceImage)
	switch i.Resolve {
	case op.ResolveForcePull:
		s.set(pb.AttrImageResolveMode, pb.AttrImageResolveModeForcePull, pb.CapSourceImageResolveMode)
	case op.ResolvePreferLocal:
		s.set(pb.AttrImageResolveMode, pb.AttrImageResolveModePreferLocal, "")
	case op.ResolveDefault, op.ResolveRegistry:
	}
	s.set(pb.AttrImageRecordType, i.RecordType, "")
	s.number(pb.AttrImageLayerLimit, i.LayerLimit, pb.CapSourceImageLayerLimit)
	s.set(pb.AttrImageChecksum, i.Checksum.String(), pb.CapSourceImageChecksum)
	if s.opt.Unpinned && i.Tagged {
		return schemeImage + "://" + i.Ref
	}
	s.flag(attrTagged, i.Tagged, "")
	return schemeImage + "://" + withDigest(i.Ref, i.Digest)
}

// session is what a source is said to be of that names a session, or none.
func (s *sourcing) session(named string) string {
	if named == "" {
		return s.opt.Session
	}
	return named
}

func (s *sourcing) layout(l *op.OCILayout) string {
	s.need(pb.CapSourceOCILayout)
	s.set(pb.AttrOCILayoutSessionID, s.session(l.Session), "")
	s.set(pb.AttrOCILayoutStoreID, l.Store, "")
	s.number(pb.AttrOCILayoutLayerLimit, l.LayerLimit, "")
	return schemeLayout + "://" + withDigest(l.Ref, l.Digest)
}

func (s *sourcing) blob(b *op.Blob) string {
	s.need(pb.CapSourceImageBlob)
	s.set(pb.AttrHTTPFilename, b.Filename, "")
	s.perm(b.Perm, "")
	s.number(pb.AttrHTTPUID, b.UID, "")
	s.number(pb.AttrHTTPGID, b.GID, "")
	s.set(pb.AttrImageRecordType, b.RecordType, "")
	scheme := schemeImageBlob
	if b.Layout {
		scheme = schemeLayoutBlob
		s.set(pb.AttrOCILayoutSessionID, s.session(b.Session), "")
		s.set(pb.AttrOCILayoutStoreID, b.Store, "")
	}
	return scheme + "://" + withDigest(b.Ref, b.Digest)
}

func (s *sourcing) local(l *op.Local) string {
	s.need(pb.CapSourceLocal)
	session := s.session(l.Session)
	if session == "" {
		s.attrs[pb.AttrLocalUniqueID] = l.Unique // also an empty one, as BuildKit's client does
		s.need(pb.CapSourceLocalUnique)
	} else {
		s.set(pb.AttrLocalUniqueID, l.Unique, pb.CapSourceLocalUnique)
	}
	s.set(pb.AttrLocalSessionID, session, pb.CapSourceLocalSessionID)
	s.list(pb.AttrIncludePatterns, l.Include, pb.CapSourceLocalIncludePatterns)
	s.list(pb.AttrFollowPaths, l.Follow, pb.CapSourceLocalFollowPaths)
	s.list(pb.AttrExcludePatterns, l.Exclude, pb.CapSourceLocalExcludePatterns)
	s.set(pb.AttrSharedKeyHint, l.SharedKey, pb.CapSourceLocalSharedKeyHint)
	switch l.Differ {
	case op.DifferNone:
		s.set(pb.AttrLocalDiffer, pb.AttrLocalDifferNone, pb.CapSourceLocalDiffer)
	case op.DifferMetadata:
		s.set(pb.AttrLocalDiffer, pb.AttrLocalDifferMetadata, pb.CapSourceLocalDiffer)
	case op.DifferDefault:
	}
	s.flag(pb.AttrMetadataTransfer, l.MetadataOnly, pb.CapSourceMetadataTransfer)
	s.list(pb.AttrMetadataTransferExclude, l.MetadataExceptions, pb.CapSourceMetadataTransfer)
	if !s.opt.Unpinned {
		s.set(attrRoot, l.Root, "")
		if l.Largest > 0 {
			s.set(attrLargest, strconv.FormatInt(l.Largest, 10), "")
		}
	}
	return schemeLocal + "://" + l.Name
}

func (s *sourcing) http(h *op.HTTP) string {
	s.need(pb.CapSourceHTTP)
	s.set(pb.AttrHTTPChecksum, h.Checksum.String(), pb.CapSourceHTTPChecksum)
	s.set(pb.AttrHTTPFilename, h.Filename, "")
	s.perm(h.Perm, pb.CapSourceHTTPPerm)
	s.number(pb.AttrHTTPUID, h.UID, pb.CapSourceHTTPUIDGID)
	s.number(pb.AttrHTTPGID, h.GID, pb.CapSourceHTTPUIDGID)
	s.set(pb.AttrHTTPAuthHeaderSecret, h.AuthHeaderSecret, pb.CapSourceHTTPAuth)
	for _, f := range h.Header {
		s.attrs[pb.AttrHTTPHeaderPrefix+strings.ToLower(f.Name)] = f.Value
		s.need(pb.CapSourceHTTPHeader)
	}
	if g := h.Signature; g != nil {
		s.set(pb.AttrHTTPSignatureVerifyPubKey, g.PublicKeys, pb.CapSourceHTTPSignatureVerify)
		s.set(pb.AttrHTTPSignatureVerify, g.Signature, pb.CapSourceHTTPSignatureVerify)
	}
	if !s.opt.Unpinned && h.Digest != "" {
		s.set(attrDigest, h.Digest.String(), "")
		s.set(attrName, h.Name, "")
		if !h.Modified.IsZero() {
			s.attrs[attrModified] = strconv.FormatInt(h.Modified.Unix(), 10)
		}
	}
	return h.URL
}

func (s *sourcing) git(g *op.Git) string {
	s.need(pb.CapSourceGit)
	s.flag(pb.AttrKeepGitDir, g.KeepGitDir, pb.CapSourceGitKeepDir)
	s.set(pb.AttrFullRemoteURL, g.Remote, pb.CapSourceGitFullURL)
	own := func(secret, usual string) apicaps.CapID {
		if secret == usual {
			return ""
		}
		return pb.CapSourceGitHTTPAuth
	}
	s.set(pb.AttrAuthTokenSecret, g.AuthTokenSecret, own(g.AuthTokenSecret, op.GitAuthToken))
	s.set(pb.AttrAuthHeaderSecret, g.AuthHeaderSecret, own(g.AuthHeaderSecret, op.GitAuthHeader))
	s.set(pb.AttrKnownSSHHosts, g.KnownHosts, pb.CapSourceGitKnownSSHHosts)
	s.set(pb.AttrMountSSHSock, g.SSH, pb.CapSourceGitMountSSHSock)
	s.set(pb.AttrGitChecksum, g.Checksum, pb.CapSourceGitChecksum)
	s.flag(pb.AttrGitSkipSubmodules, g.SkipSubmodules, pb.CapSourceGitSkipSubmodules)
	if g.CommitTime {
		s.set(pb.AttrGitMTime, "commit", pb.CapSourceGitMTime)
	}
	s.flag(pb.AttrGitFetchByCommit, g.FetchByCommit, pb.CapSourceGitFetchByCommit)
	s.set(pb.AttrGitBundle, g.Bundle, pb.CapSourceGitBundle)
	bundle := g.BundleSession
	if g.BundleStore != "" {
		bundle = s.session(bundle)
	}
	s.set(pb.AttrOCILayoutSessionID, bundle, "")
	s.set(pb.AttrOCILayoutStoreID, g.BundleStore, "")
	s.flag(pb.AttrGitCheckoutBundle, g.CheckoutBundle, pb.CapSourceGitCheckoutBundle)
	if v := g.Signature; v != nil {
		s.set(pb.AttrGitSignatureVerifyPubKey, v.PublicKeys, pb.CapSourceGitSignatureVerify)
		s.flag(pb.AttrGitSignatureVerifyRejectExpired, v.RejectExpired, pb.CapSourceGitSignatureVerify)
		s.flag(pb.AttrGitSignatureVerifyRequireSignedTag, v.RequireSignedTag, pb.CapSourceGitSignatureVerify)
		s.flag(pb.AttrGitSignatureVerifyIgnoreSignedTag, v.IgnoreSignedTag, pb.CapSourceGitSignatureVerify)
	}
	if !s.opt.Unpinned {
		s.set(attrCommit, g.Commit, "")
	}
	named := op.Git{Remote: g.Remote, Ref: g.Ref, Subdir: g.Subdir}
	if s.opt.Unpinned && g.Ref == "" {
		named.Ref = g.Commit // what was asked for was a commit, or names one now
	}
	return named.String()
}
