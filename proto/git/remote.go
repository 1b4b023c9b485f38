package git

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// A Remote is a repository elsewhere, and how to be let in.
type Remote struct {
	// URL is as a user writes it for git: "https://host/r.git", "ssh://git@host/r", "git@host:r". Credentials in it are
	// used and never shown.
	URL string
	// Header is the value of an Authorization header for http and https; it goes before credentials in URL.
	Header string
	// AgentSocket is the path of the socket of an SSH agent; empty for none.
	AgentSocket string
	// KnownHosts is the content of a known_hosts file. If it is empty any host key is taken.
	KnownHosts string
	// Bundle, if not nil, is read instead of asking the remote. Submodules come from their own remotes nevertheless.
	Bundle Bundle
}

// Scheme names of remotes.
const (
	schemeHTTP  = "http"
	schemeHTTPS = "https"
	schemeSSH   = "ssh"
	schemeGit   = "git"
)

// scpForm is git's short form of an SSH URL.
var scpForm = regexp.MustCompile(`^([a-zA-Z0-9_][a-zA-Z0-9_.-]*)@([a-zA-Z0-9][a-zA-Z0-9.-]*):(.*)$`)

// An address is a remote's URL taken apart: what may be shown, and what may not.
type address struct {
	scheme string
	url    string // what git is given, and what may be shown: without credentials
	header string // Authorization for what was in the URL
}

// parseRemote checks a URL and takes the credentials out of it. Everything that is not clearly one of the four protocols
// is refused: git knows others that read local files or run programs.
func parseRemote(raw string) (address, error) {
	for _, c := range raw {
		if c < ' ' || c == 0x7f {
			return address{}, fmt.Errorf("invalid Git URL %q: it has a control character", Redact(raw))
		}
	}
	scheme, _, ok := strings.Cut(raw, "://")
	if !ok {
		m := scpForm.FindStringSubmatch(raw)
		if m == nil {
			return address{}, fmt.Errorf("invalid Git URL %q: only http, https, ssh and git are supported", raw)
		}
		if strings.HasPrefix(m[3], "-") {
			return address{}, fmt.Errorf("invalid Git URL %q: the path begins with a dash", raw)
		}
		return address{scheme: schemeSSH, url: raw}, nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return address{}, fmt.Errorf("invalid Git URL: %w", withoutURL(err))
	}
	a := address{scheme: strings.ToLower(scheme)}
	u.Scheme = a.scheme
	switch a.scheme {
	case schemeHTTP, schemeHTTPS:
		if u.User != nil {
			// A name alone may be a token too.
			pass, _ := u.User.Password()
			a.header = "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+pass))
			u.User = nil
		}
	case schemeSSH, schemeGit:
		if u.User != nil {
			if _, has := u.User.Password(); has {
				u.User = url.User(u.User.Username()) // ssh takes none
			}
			if strings.HasPrefix(u.User.Username(), "-") {
				return address{}, fmt.Errorf("invalid Git URL %q: the user begins with a dash", Redact(raw))
			}
		}
		// The host and, for ssh, the path become arguments and words of a protocol.
		if strings.HasPrefix(u.Path, "-") || strings.HasPrefix(u.Path, "/-") {
			return address{}, fmt.Errorf("invalid Git URL %q: the path begins with a dash", Redact(raw))
		}
	default:
		return address{}, fmt.Errorf("invalid Git URL %q: only http, https, ssh and git are supported", Redact(raw))
	}
	if h := u.Hostname(); h == "" || strings.HasPrefix(h, "-") {
		return address{}, fmt.Errorf("invalid Git URL %q: it names no host", Redact(raw))
	}
	u.Fragment, u.RawFragment = "", ""
	a.url = u.String()
	return a, nil
}

// withoutURL is the reason of a url.Error, which has the URL itself in its text.
func withoutURL(err error) error {
	if e, ok := err.(*url.Error); ok { //nolint:errorlint // url.Parse returns it bare
		return e.Err
	}
	return err
}

// mask stands for credentials, as BuildKit shows them.
const mask = "xxxxx"

// Redact returns a URL with its user and password masked, where it has any, in BuildKit's form. What is no URL is
// returned as it is, unless a user could be in it.
func Redact(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		scheme, rest, ok := strings.Cut(raw, "://")
		if i := strings.LastIndexByte(rest, '@'); ok && i >= 0 {
			return scheme + "://" + mask + rest[i:]
		}
		return raw
	}
	if u.User == nil {
		return raw
	}
	name := u.User.Username()
	if name != "" {
		name = mask
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(name, mask)
	} else if name != "" {
		u.User = url.User(name)
	}
	return u.String()
}

// header returns the Authorization header for r, whose address is a; empty for none.
func (r *Remote) header(a address) string {
	if a.scheme != schemeHTTP && a.scheme != schemeHTTPS {
		return ""
	}
	if r.Header != "" {
		return r.Header
	}
	return a.header
}

// scope returns the part of a URL below which a header is sent. One for GitHub serves all its repositories, as private
// submodules need it, and as BuildKit and GitHub's own actions do it.
func scope(u string) string {
	for _, prefix := range []string{"https://github.com/", "https://www.github.com/"} {
		if strings.HasPrefix(u, prefix) {
			return prefix
		}
	}
	return u
}

// submodule returns the remote of a submodule whose URL .gitmodules gives, relative to r: with r's credentials only if
// it is inside their scope.
func (r *Remote) submodule(raw string) (Remote, error) {
	full := raw
	if strings.HasPrefix(raw, "./") || strings.HasPrefix(raw, "../") {
		var err error
		if full, err = relativeURL(r.URL, raw); err != nil {
			return Remote{}, err
		}
	}
	own, err := parseRemote(r.URL)
	if err != nil {
		return Remote{}, err
	}
	a, err := parseRemote(full)
	if err != nil {
		return Remote{}, err
	}
	sub := Remote{URL: full, AgentSocket: r.AgentSocket, KnownHosts: r.KnownHosts}
	if within(a.url, scope(own.url)) {
		sub.Header = r.Header
	}
	return sub, nil
}

// within says whether u is base, or a path below it.
func within(u, base string) bool {
	rest, ok := strings.CutPrefix(u, base)
	return ok && (rest == "" || strings.HasSuffix(base, "/") || rest[0] == '/')
}

// relativeURL resolves the URL of a submodule against its parent's, by git's rule: each "../" takes one component off,
// the host included in no case.
func relativeURL(base, rel string) (string, error) {
	base = strings.TrimRight(base, "/")
	for {
		if r, ok := strings.CutPrefix(rel, "./"); ok {
			rel = r
			continue
		}
		r, ok := strings.CutPrefix(rel, "../")
		if !ok {
			break
		}
		rel = r
		i := strings.LastIndexByte(base, '/')
		j := strings.Index(base, "://")
		switch {
		case i >= 0 && (j < 0 || i > j+2):
			base = base[:i]
		case j < 0 && strings.Contains(base, ":"):
			// "host:path" has lost its last component.
			k := strings.LastIndexByte(base, ':')
			if k == len(base)-1 {
				return "", fmt.Errorf("the submodule's URL %q leaves its parent's host", rel)
			}
			base = base[:k+1]
		default:
			return "", fmt.Errorf("the submodule's URL %q leaves its parent's host", rel)
		}
	}
	if strings.HasSuffix(base, ":") {
		return base + rel, nil
	}
	return base + "/" + rel, nil
}
