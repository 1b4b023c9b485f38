package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"
)

// What callers may act on, by errors.Is.
var (
	// ErrNotFound is a manifest, blob or repository that the registry does not have.
	ErrNotFound = errors.New("not found in the registry")
	// ErrUnauthorized is a registry that wants credentials, or other ones. Many registries say so of repositories that
	// do not exist, too.
	ErrUnauthorized = errors.New("not authorized by the registry")
	// ErrDigest is content that is not what its digest or size says.
	ErrDigest = errors.New("content does not match its descriptor")
	// ErrTooLarge is a manifest, an index or a config over one of the limits of this package.
	ErrTooLarge = errors.New("over the limit")
	// ErrSchema1 is an image in Docker's first manifest format, which has no digests of its layers' content.
	ErrSchema1 = errors.New("the image is in Docker's old schema 1 format, which is no longer supported; " +
		"pull and push it once with a tool that still converts it")
	// ErrManifest is a manifest or index that breaks the specification.
	ErrManifest = errors.New("invalid manifest")
)

// maxErrorBody is how much of an error's body is read, in bytes.
const maxErrorBody = 64 << 10

// A StatusError is an answer of a registry, or of its token server, that says no.
type StatusError struct {
	Method  string
	Scheme  string // "https", or "http" where that is spoken
	Host    string // that answered
	Ref     string // what the request was about
	Status  int    // HTTP status
	Code    string // the registry's code, such as MANIFEST_UNKNOWN; may be empty
	Message string // the registry's words; may be empty
	// RetryAfter is how long the registry asks to wait, 0 if it does not say.
	RetryAfter time.Duration
	// Hint is what the client knows besides, for a person; may be empty.
	Hint string
}

// Error says who answered what.
func (e *StatusError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s answers %d %s", e.Host, e.Status, http.StatusText(e.Status))
	if e.Code != "" {
		b.WriteString(": " + e.Code)
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// Is matches ErrNotFound and ErrUnauthorized.
func (e *StatusError) Is(target error) bool {
	switch target {
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	case ErrUnauthorized:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	}
	return false
}

// newStatusError reads and closes the body of resp.
func newStatusError(resp *http.Response, ref string) *StatusError {
	defer resp.Body.Close()
	e := &StatusError{
		Method: resp.Request.Method, Scheme: resp.Request.URL.Scheme, Host: resp.Request.URL.Host, Ref: ref, Status: resp.StatusCode,
		RetryAfter: RetryAfter(resp.Header, time.Now()),
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil && len(b) == 0 {
		return e
	}
	e.Code, e.Message = parseErrorBody(b)
	if resp.StatusCode == http.StatusBadRequest && strings.Contains(e.Message, "HTTP request to an HTTPS server") {
		e.Hint = "this port speaks TLS; give the host a CA or mark it as insecure in the configuration"
	}
	return e
}

// parseErrorBody reads the distribution specification's error document, the one of token servers, or short plain text.
func parseErrorBody(b []byte) (code, message string) {
	var doc struct {
		Errors []struct {
			Code    string          `json:"code"`
			Message string          `json:"message"`
			Detail  json.RawMessage `json:"detail"`
		} `json:"errors"`
		Details string `json:"details"` // Docker Hub's token server
		Message string `json:"message"`
		Error   string `json:"error"` // OAuth2, RFC 6749 5.2
		Descr   string `json:"error_description"`
	}
	if json.Unmarshal(b, &doc) == nil {
		if len(doc.Errors) > 0 {
			return printable(doc.Errors[0].Code, 64), printable(doc.Errors[0].Message, 512)
		}
		for _, s := range []string{doc.Message, doc.Details, doc.Descr} {
			if s != "" {
				return printable(doc.Error, 64), printable(s, 512)
			}
		}
		return printable(doc.Error, 64), ""
	}
	// A page of HTML from some proxy tells a person less than the status does.
	if s := strings.TrimSpace(string(b)); s != "" && !strings.HasPrefix(s, "<") {
		return "", printable(s, 256)
	}
	return "", ""
}

// printable cuts s to n bytes and drops what could drive a terminal: the text comes from the other side.
func printable(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

// A transportError is a request that got no whole answer: the connection could not be made, broke, or stalled. It is
// worth another try unless its cause says otherwise.
type transportError struct{ err error }

func (e *transportError) Error() string { return e.err.Error() }
func (e *transportError) Unwrap() error { return e.err }
