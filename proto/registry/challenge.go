package registry

import (
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// A challenge is how a server wants to be authenticated with: RFC 9110 11.6.1, and the distribution project's token
// specification for bearer.
type challenge struct {
	scheme  string // "basic" or "bearer"; empty if none is known
	realm   string // of bearer: the token server's URL
	service string
}

// maxChallenge is how long a WWW-Authenticate header may be, in bytes.
const maxChallenge = 16 << 10

// parseChallenges returns the challenge of an answer that this client can meet: bearer before basic, as a server that
// offers both means its password to be sent to the token server.
func parseChallenges(h http.Header) (challenge, bool) {
	var basic, bearer *challenge
	for _, line := range h.Values("WWW-Authenticate") {
		for _, ch := range splitChallenges(line) {
			switch {
			case ch.scheme == "bearer" && ch.realm != "" && bearer == nil:
				bearer = &ch
			case ch.scheme == "basic" && basic == nil:
				basic = &ch
			}
		}
	}
	switch {
	case bearer != nil:
		return *bearer, true
	case basic != nil:
		return *basic, true
	}
	return challenge{}, false
}

// splitChallenges reads one header line, which may hold several challenges. What it cannot read ends it.
func splitChallenges(s string) []challenge {
	if len(s) > maxChallenge {
		return nil
	}
	var all []challenge
	for {
		s = strings.TrimLeft(s, " \t,=") // "=" may end a token68
		word, rest := cutToken(s)
		if word == "" {
			return all
		}
		// "word =" is a parameter of the challenge before, "word" alone begins the next one. A token68 after a scheme,
		// which only schemes have that are not ours, looks like a scheme, too, and is dropped with it.
		value, after, isParam := cutValue(rest)
		switch {
		case !isParam:
			all = append(all, challenge{scheme: strings.ToLower(word)})
			s = rest
		case len(all) == 0:
			return nil
		default:
			all[len(all)-1].set(strings.ToLower(word), value)
			s = after
		}
	}
}

func (ch *challenge) set(name, value string) {
	switch name {
	case "realm":
		ch.realm = value
	case "service":
		ch.service = value
	}
}

// cutToken cuts an RFC 9110 token off the front of s.
func cutToken(s string) (token, rest string) {
	i := 0
	for i < len(s) && isTokenByte(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

func isTokenByte(b byte) bool {
	return '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0
}

// cutValue cuts "= token" or "= quoted string" off the front of s.
func cutValue(s string) (value, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t")
	if !strings.HasPrefix(s, "=") {
		return "", s, false
	}
	s = strings.TrimLeft(s[1:], " \t")
	if !strings.HasPrefix(s, `"`) {
		value, rest = cutToken(s)
		return value, rest, true
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", true // never closed: nothing of it counts
}

// tokenServers of registries whose token server is in another domain, as their operators document it.
var tokenServers = map[string]string{
	dockerHub:             "auth.docker.io",
	"dhi.io":              "auth.docker.io",
	"rg.fr-par.scw.cloud": "api.scaleway.com",
	"rg.nl-ams.scw.cloud": "api.scaleway.com",
	"rg.pl-waw.scw.cloud": "api.scaleway.com",
}

// realmURL returns the URL of the token server that ep names. A registry that is spoken with over TLS cannot name one
// that is not.
func realmURL(ep *endpoint, realm string) (*url.URL, bool) {
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" || u.User != nil || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, false
	}
	if u.Scheme == "http" && ep.scheme != "http" {
		return nil, false
	}
	return u, true
}

// tokenServerAllowed says whether the credentials of ep may be sent to the token server at u. A registry's word is not
// enough for that, or any registry could collect, at a place of its choice, the password that a user keeps for it. The
// server must be the registry itself, be in the same registrable domain and prove it by TLS, or be listed: by the
// configuration, or in tokenServers.
func tokenServerAllowed(ep *endpoint, u *url.URL) bool {
	if sameServer(u, ep) {
		return true
	}
	for _, s := range ep.conf.TokenServers {
		if strings.EqualFold(s, u.Host) {
			return true
		}
	}
	if u.Scheme != "https" {
		return false
	}
	if u.Port() == "" && tokenServers[ep.name] == strings.ToLower(u.Host) {
		return true
	}
	return ep.scheme == "https" && sameDomain(hostname(ep.addr), u.Hostname())
}

// sameDomain says whether two names are equal or under one domain that somebody registered.
func sameDomain(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if a == b {
		return true
	}
	da, err := publicsuffix.EffectiveTLDPlusOne(a)
	if err != nil {
		return false
	}
	db, err := publicsuffix.EffectiveTLDPlusOne(b)
	return err == nil && da == db
}
