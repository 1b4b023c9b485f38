package httpsource

import (
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/boxbuild/boxbuild/solver/op"
)

// FileName returns what the file of an answer is called: given, if it is not empty, else what the server calls it, else
// the last component of the URL's path. It is always a name that can be made in a directory. h may be nil.
func FileName(rawURL, given string, h http.Header) string {
	if given != "" {
		return op.SafeName(given)
	}
	if _, params, err := mime.ParseMediaType(h.Get("Content-Disposition")); err == nil {
		if n := params["filename"]; n != "" && !strings.HasSuffix(n, "/") {
			return op.SafeName(n)
		}
	}
	if u, err := url.Parse(rawURL); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" {
			return op.SafeName(base)
		}
	}
	return op.SafeName("")
}
