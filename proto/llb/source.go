package llb

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver/op"
)

// The schemes of sources.
const (
	schemeImage      = "docker-image"
	schemeImageBlob  = "docker-image+blob"
	schemeLayout     = "oci-layout"
	schemeLayoutBlob = "oci-layout+blob"
	schemeLocal      = "local"
	schemeGit        = "git"
	schemeHTTP       = "http"
	schemeHTTPS      = "https"
)

// The attributes of pinned sources that LLB has no words for.
const (
	attrTagged   = "boxbuild.tagged"   // of an image: op.Image.Tagged
	attrRoot     = "boxbuild.root"     // of a directory: op.Local.Root
	attrLargest  = "boxbuild.largest"  // op.Local.Largest
	attrCommit   = "boxbuild.commit"   // of a repository: op.Git.Commit
	attrDigest   = "boxbuild.digest"   // of a file: op.HTTP.Digest
	attrName     = "boxbuild.name"     // op.HTTP.Name
	attrModified = "boxbuild.modified" // op.HTTP.Modified, in seconds
)

// source decodes a source.
func (w *wired) source(s *pb.SourceOp) (op.Source, error) {
	if s == nil {
		return nil, errors.New("invalid nil source op")
	}
	if len(w.in) > 0 {
		return nil, errors.New("a source has inputs")
	}
	scheme, ref, ok := strings.Cut(s.Identifier, "://")
	if !ok {
		return nil, fmt.Errorf("invalid source %q", op.RedactURL(s.Identifier))
	}
	a := &attrs{values: s.Attrs, supports: w.supports}
	src, err := decodeSource(scheme, ref, a, platformSpec(w.op.Platform))
	if err != nil {
		return nil, err
	}
	return src, a.done(scheme)
}

func decodeSource(scheme, ref string, a *attrs, p op.Platform) (op.Source, error) {
	switch scheme {
	case schemeImage:
		return decodeImage(ref, a, p)
	case schemeImageBlob, schemeLayoutBlob:
		return decodeBlob(ref, a, scheme == schemeLayoutBlob)
	case schemeLayout:
		return decodeLayout(ref, a, p)
	case schemeLocal:
		return decodeLocal(ref, a), nil
	case schemeGit:
		return decodeGit(ref, a)
	case schemeHTTP, schemeHTTPS:
		return decodeHTTP(scheme+"://"+ref, a), nil
	}
	return nil, fmt.Errorf("unknown source scheme %q", scheme)
}

// attrs are the attributes of a source while they are decoded. The first error is kept.
type attrs struct {
	values   map[string]string
	supports func(capability string) error
	read     map[string]bool
	err      error
}

// text returns an attribute; "" if it is not there. If it is, the capability has to be one that boxbuild has.
func (a *attrs) text(name, capability string) string {
	v, ok := a.values[name]
	if !ok {
		return ""
	}
	if a.read == nil {
		a.read = make(map[string]bool)
	}
	a.read[name] = true
	if capability != "" {
		a.fail(name, a.supports(capability))
	}
	return v
}

func (a *attrs) fail(name string, err error) {
	if err != nil && a.err == nil {
		a.err = fmt.Errorf("attribute %s: %w", name, err)
	}
}

func (a *attrs) flag(name, capability string) bool { return a.text(name, capability) == "true" }

// number returns a whole number, decimal, octal or hexadecimal, from least to most.
func (a *attrs) number(name, capability string, least, most int64) int64 {
	v := a.text(name, capability)
	if _, ok := a.values[name]; !ok {
		return 0
	}
	n, err := strconv.ParseInt(v, 0, 64)
	if err == nil && (n < least || n > most) {
		err = strconv.ErrRange
	}
	if err != nil {
		a.fail(name, fmt.Errorf("invalid value %q", v))
		return 0
	}
	return n
}

// list returns a list, which is written as JSON.
func (a *attrs) list(name, capability string) (out []string) {
	v := a.text(name, capability)
	if v == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(v), &out); err != nil {
		a.fail(name, fmt.Errorf("invalid list %q", v))
	}
	return out
}

// digest returns a digest of a kind that boxbuild uses.
func (a *attrs) digest(name, capability string) digest.Digest {
	v := a.text(name, capability)
	if v == "" {
		return ""
	}
	d, err := parseDigest(v)
	a.fail(name, err)
	return d
}

// done says what was wrong, or names an attribute that nobody has read.
func (a *attrs) done(scheme string) error {
	if a.err != nil {
		return a.err
	}
	for _, k := range slices.Sorted(maps.Keys(a.values)) {
		if !a.read[k] {
			return fmt.Errorf("unknown attribute %q of a source %s://", k, scheme)
		}
	}
	return nil
}

func parseDigest(s string) (digest.Digest, error) {
	d, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("invalid digest %q: %w", s, err)
	}
	if alg := d.Algorithm(); alg != digest.SHA256 && alg != digest.SHA512 {
		return "", fmt.Errorf("invalid digest %q: unsupported algorithm %s", s, alg)
	}
	return d, nil
}

// maxID is the highest user or group: the one after it means "do not change" to chown(2).
const maxID = 1<<32 - 2

// splitRef takes a reference apart as package op has it. With tagged a reference without tag and digest gets the usual tag.
func splitRef(s string, tagged bool) (name string, d digest.Digest, err error) {
	ref, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return "", "", fmt.Errorf("invalid reference %q: %w", s, err)
	}
	if tagged {
		ref = reference.TagNameOnly(ref)
	}
	name = reference.TrimNamed(ref).String()
	if t, ok := ref.(reference.Tagged); ok {
		name += ":" + t.Tag()
	}
	if dg, ok := ref.(reference.Digested); ok {
		if d, err = parseDigest(dg.Digest().String()); err != nil {
			return "", "", err
		}
	}
	return name, d, nil
}

func decodeImage(ref string, a *attrs, p op.Platform) (*op.Image, error) {
	img := &op.Image{Platform: p}
	var err error
	if img.Ref, img.Digest, err = splitRef(ref, true); err != nil {
		return nil, err
	}
	switch v := a.text(pb.AttrImageResolveMode, string(pb.CapSourceImageResolveMode)); v {
	case "", pb.AttrImageResolveModeDefault:
	case pb.AttrImageResolveModeForcePull:
		img.Resolve = op.ResolveForcePull
	case pb.AttrImageResolveModePreferLocal:
		img.Resolve = op.ResolvePreferLocal
	default:
		a.fail(pb.AttrImageResolveMode, fmt.Errorf("invalid resolve mode %q", v))
	}
	img.RecordType = recordType(a)
	img.LayerLimit = int(a.number(pb.AttrImageLayerLimit, string(pb.CapSourceImageLayerLimit), 1, 1<<20))
	img.Checksum = a.digest(pb.AttrImageChecksum, string(pb.CapSourceImageChecksum))
	img.Tagged = a.flag(attrTagged, "") && img.Digest != ""
	return img, nil
}

func recordType(a *attrs) string {
	v := a.text(pb.AttrImageRecordType, "")
	switch v {
	case "", "regular", "internal", "frontend":
	default:
		a.fail(pb.AttrImageRecordType, fmt.Errorf("invalid record type %q", v))
	}
	return v
}

func decodeLayout(ref string, a *attrs, p op.Platform) (*op.OCILayout, error) {
	if err := a.supports(string(pb.CapSourceOCILayout)); err != nil {
		return nil, err
	}
	l := &op.OCILayout{Platform: p}
	var err error
	if l.Ref, l.Digest, err = splitRef(ref, false); err != nil {
		return nil, err
	}
	l.Session = a.text(pb.AttrOCILayoutSessionID, "")
	l.Store = a.text(pb.AttrOCILayoutStoreID, "")
	l.LayerLimit = int(a.number(pb.AttrOCILayoutLayerLimit, "", 1, 1<<20))
	return l, nil
}

func decodeBlob(ref string, a *attrs, layout bool) (*op.Blob, error) {
	if err := a.supports(string(pb.CapSourceImageBlob)); err != nil {
		return nil, err
	}
	b := &op.Blob{Layout: layout}
	var err error
	if b.Ref, b.Digest, err = splitRef(ref, false); err != nil {
		return nil, err
	}
	if b.Digest == "" {
		return nil, fmt.Errorf("invalid reference %q of a blob: it has no digest", ref)
	}
	if layout {
		b.Session = a.text(pb.AttrOCILayoutSessionID, "")
		b.Store = a.text(pb.AttrOCILayoutStoreID, "")
	}
	b.Filename = a.text(pb.AttrHTTPFilename, "")
	b.Perm = uint32(a.number(pb.AttrHTTPPerm, "", 0, 0o7777))
	b.UID = int(a.number(pb.AttrHTTPUID, "", 0, maxID))
	b.GID = int(a.number(pb.AttrHTTPGID, "", 0, maxID))
	b.RecordType = recordType(a)
	return b, nil
}

// decodeLocal decodes a directory of the client's. A session "a:b" is the directory "a-name" of the session "b".
func decodeLocal(name string, a *attrs) *op.Local {
	l := &op.Local{Name: name}
	l.Session = a.text(pb.AttrLocalSessionID, string(pb.CapSourceLocalSessionID))
	if prefix, id, ok := strings.Cut(l.Session, ":"); ok {
		l.Name, l.Session = prefix+"-"+l.Name, id
	}
	l.Include = a.list(pb.AttrIncludePatterns, string(pb.CapSourceLocalIncludePatterns))
	l.Exclude = a.list(pb.AttrExcludePatterns, string(pb.CapSourceLocalExcludePatterns))
	l.Follow = a.list(pb.AttrFollowPaths, string(pb.CapSourceLocalFollowPaths))
	l.SharedKey = a.text(pb.AttrSharedKeyHint, string(pb.CapSourceLocalSharedKeyHint))
	l.Unique = a.text(pb.AttrLocalUniqueID, string(pb.CapSourceLocalUnique))
	switch v := a.text(pb.AttrLocalDiffer, string(pb.CapSourceLocalDiffer)); v {
	case "":
	case pb.AttrLocalDifferNone:
		l.Differ = op.DifferNone
	case pb.AttrLocalDifferMetadata:
		l.Differ = op.DifferMetadata
	default:
		a.fail(pb.AttrLocalDiffer, fmt.Errorf("invalid differ %q", v))
	}
	if v := a.text(pb.AttrMetadataTransfer, string(pb.CapSourceMetadataTransfer)); v != "" {
		only, err := strconv.ParseBool(v)
		a.fail(pb.AttrMetadataTransfer, err)
		l.MetadataOnly = only
	}
	l.MetadataExceptions = a.list(pb.AttrMetadataTransferExclude, string(pb.CapSourceMetadataTransfer))
	l.Largest = a.number(attrLargest, "", 1, math.MaxInt64)
	l.Root = a.text(attrRoot, "")
	if strings.Trim(l.Root, "0123456789abcdef") != "" {
		a.fail(attrRoot, errors.New("not in lower-case hex"))
	}
	return l
}
