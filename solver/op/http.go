package op

import (
	_ "crypto/sha512" // for checksums of that kind
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
)

// HTTP is a file that is fetched from a URL. Its result is a tree that holds nothing else.
type HTTP struct {
	URL string // http or https
	// Checksum is the digest that the content must have; empty for any. It pins the source by itself.
	Checksum digest.Digest
	Filename string // in the tree; empty for what the server or the URL calls it
	Perm     uint32 // permission bits; 0 means 0600
	UID, GID int
	// AuthHeaderSecret is the ID of the secret that is sent as the Authorization header, and must be there. If it is empty
	// HTTP_AUTH_HEADER_<host> is, or HTTP_AUTH_TOKEN_<host> as a bearer token, where there is such a secret.
	AuthHeaderSecret string
	Header           []HTTPHeader // of the request; only Accept and User-Agent, sorted by name

	// Signature, if not nil, is what the content has to be signed with. It is part of the key, so that what somebody else
	// has fetched without a check never passes for checked.
	Signature *HTTPSignature

	// What follows is set by pinning.

	// Digest is that of the content.
	Digest digest.Digest
	// Name is the file's, in the tree. It has no slash.
	Name string
	// Modified is when the server says that the content changed last; zero if it does not. It is the time of the file, and
	// in the key as that, to the second. A source that Checksum pins has none, since nobody was asked.
	Modified time.Time
}

// An HTTPSignature is a detached OpenPGP signature of a file, and the keys one of which has to have made it. Both are
// armored.
type HTTPSignature struct{ PublicKeys, Signature string }

// An HTTPHeader is a field of a request's header.
type HTTPHeader struct{ Name, Value string }

// SessionHost is the host of URLs that name what the client of a build uploads, instead of a place in the network. It is
// BuildKit's, in whose protocol such a URL may be a context.
const SessionHost = "buildkit-session"

// Upload returns the ID of the upload that the source is, if it is one.
func (s *HTTP) Upload() (id string, ok bool) {
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "http" || u.Host != SessionHost || len(u.Path) < 2 {
		return "", false
	}
	return u.Path[1:], true
}

// Pinned implements Source.
func (s *HTTP) Pinned() bool { return s.Digest != "" }

// WriteKey implements solver.Op. Of a pinned source the place does not count, nor how it was asked.
func (s *HTTP) WriteKey(h *solver.Hasher) {
	h.Version("http", 1)
	if s.Digest != "" {
		h.Str("digest", string(s.Digest))
		h.Str("name", s.Name)
		if !s.Modified.IsZero() {
			h.Int("modified", s.Modified.Unix())
		}
	} else {
		h.Str("url", s.URL)
		h.Str("checksum", string(s.Checksum))
		h.Str("filename", s.Filename)
		h.Str("authheadersecret", s.AuthHeaderSecret)
		for _, f := range s.Header {
			h.Strs("header", []string{f.Name, f.Value})
		}
	}
	if s.Signature != nil {
		h.Strs("signature", []string{s.Signature.PublicKeys, s.Signature.Signature})
	}
	h.Int("perm", int64(s.Perm))
	h.Int("uid", int64(s.UID))
	h.Int("gid", int64(s.GID))
}

// String returns the URL without a password.
func (s *HTTP) String() string {
	if s.Digest != "" {
		return fmt.Sprintf("%s@%s", RedactURL(s.URL), s.Digest)
	}
	return RedactURL(s.URL)
}

// RedactURL returns a URL with the password in it, if there is one, masked, and with http and https a user without one, who
// is a token then. What is no URL but looks like one is masked as a repository is.
func RedactURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return RedactGit(raw)
	}
	if u.User == nil {
		return raw
	}
	if _, has := u.User.Password(); !has && (u.Scheme == "http" || u.Scheme == "https") {
		u.User = url.User("xxxxx")
	}
	return u.Redacted()
}

// maxName is how long the name of a file may be on Linux, in bytes.
const maxName = 255

// SafeName returns the last component of s, or "download" where that is no name for a file.
func SafeName(s string) string {
	const unsafe = "download"
	name := path.Base(strings.TrimSpace(s))
	if name == "." || name == ".." || name == "/" || len(name) > maxName {
		return unsafe
	}
	if strings.ContainsFunc(name, unicode.IsControl) {
		return unsafe
	}
	return name
}
