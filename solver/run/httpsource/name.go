package httpsource

import (
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"
	"unicode"
)

// FileName returns what the file of an answer is called: given, if it is not empty, else what the server calls it, else
// the last component of the URL's path. It is always a name that can be made in a directory. h may be nil.
func FileName(rawURL, given string, h http.Header) string {
	if given != "" {
		return SafeName(given)
	}
	if _, params, err := mime.ParseMediaType(h.Get("Content-Disposition")); err == nil {
		if n := params["filename"]; n != "" && !strings.HasSuffix(n, "/") {
			return SafeName(n)
		}
	}
	if u, err := url.Parse(rawURL); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" {
			return SafeName(base)
		}
	}
	return SafeName("")
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
