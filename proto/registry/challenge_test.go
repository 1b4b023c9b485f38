package registry

import (
	"net/http"
	"net/url"
	"testing"
)

// Challenges are read as RFC 9110 writes them, several to a line or several lines.
func TestParseChallenges(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		want  challenge
	}{
		{
			"docker hub",
			[]string{`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a:pull"`},
			challenge{"bearer", "https://auth.docker.io/token", "registry.docker.io"},
		},
		{"basic", []string{`Basic realm="x"`}, challenge{"basic", "x", ""}},
		{"basic alone", []string{`basic`}, challenge{scheme: "basic"}},
		{"both in one line", []string{`Basic realm="x", Bearer realm="https://t/", service=s`}, challenge{"bearer", "https://t/", "s"}},
		{"both in two", []string{`Basic realm="x"`, `BEARER Realm="https://t/" , SERVICE = "s"`}, challenge{"bearer", "https://t/", "s"}},
		{
			"escapes and commas",
			[]string{`Bearer realm="https://t/?a=\"b\",c", service="a, Basic realm=z"`},
			challenge{"bearer", `https://t/?a="b",c`, "a, Basic realm=z"},
		},
		{"others first", []string{`Negotiate`, `NTLM abc==, Bearer realm="r"`}, challenge{"bearer", "r", ""}},
		{"no realm", []string{`Bearer service="s"`}, challenge{}},
		{"never closed", []string{`Bearer realm="https://t/`}, challenge{}},
		{"nothing", nil, challenge{}},
		{"noise", []string{`realm="x"`, `,,,`, `"`}, challenge{}},
	} {
		got, ok := parseChallenges(http.Header{"Www-Authenticate": tt.lines})
		if got != tt.want || ok != (tt.want != challenge{}) {
			t.Errorf("%s: got %+v, %v; want %+v", tt.name, got, ok, tt.want)
		}
	}
}

// Credentials go to the registry's own server, over TLS to its domain, and to servers that are listed; to nobody else,
// whatever the registry says (CVE-2026-33540).
func TestTokenServerAllowed(t *testing.T) {
	tls := func(host string) *endpoint { return &endpoint{name: host, addr: host, scheme: "https"} }
	plain := func(host string) *endpoint { return &endpoint{name: host, addr: host, scheme: "http"} }
	hub := &endpoint{name: dockerHub, addr: dockerHubAddr, scheme: "https"}
	listed := tls("registry.example.com")
	listed.conf.TokenServers = []string{"auth.other.com", "auth.third.com:5001"}
	for _, tt := range []struct {
		ep    *endpoint
		realm string
		want  bool
	}{
		{tls("registry.example.com"), "https://registry.example.com/token", true},
		{tls("registry.example.com:5050"), "https://registry.example.com/token", true},
		{tls("registry.example.com"), "https://auth.example.com/token", true},
		{tls("registry.example.com"), "https://example.com/token", true},
		{tls("registry.example.com"), "https://auth.other.com/token", false},
		{tls("registry.example.com"), "https://registry.example.com.evil.com/token", false},
		{tls("registry.example.com"), "http://registry.example.com/token", false},
		{tls("registry.example.com"), "https://user:pw@registry.example.com/token", false},
		{tls("me.github.io"), "https://you.github.io/token", false},
		{tls("registry.co.uk"), "https://evil.co.uk/token", false},
		{tls("10.0.0.1"), "https://10.0.0.2/token", false},
		{tls("10.0.0.1:5000"), "https://10.0.0.1:5001/token", true},
		{hub, "https://auth.docker.io/token", true},
		{hub, "https://auth.docker.io:444/token", true}, // of docker.io's own domain
		{tls("dhi.io"), "https://auth.docker.io/token", true},
		{tls("dhi.io"), "https://hub.docker.io/token", false},
		{listed, "https://auth.other.com/token", true},
		{listed, "https://auth.other.com:444/token", false},
		{listed, "https://auth.third.com:5001/token", true},
		{listed, "http://auth.other.com/token", false},
		{plain("localhost:5000"), "http://localhost:5000/token", true},
		{plain("localhost:5000"), "http://localhost:5001/token", false},
		{plain("localhost:5000"), "http://127.0.0.1:5000/token", false},
		{plain("localhost:5000"), "https://auth.example.com/token", false},
		{tls("registry.example.com"), "/token", false},
		{tls("registry.example.com"), "ftp://registry.example.com/", false},
		{tls("registry.example.com"), "://", false},
	} {
		u, ok := realmURL(tt.ep, tt.realm)
		if got := ok && tokenServerAllowed(tt.ep, u); got != tt.want {
			t.Errorf("%s with realm %s: %v, want %v", tt.ep.base(), tt.realm, got, tt.want)
		}
	}
}

// Nothing leads from TLS to plain HTTP, or off the web.
func TestFollowable(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		want     bool
	}{
		{"https://a/", "https://b/", true},
		{"http://a/", "https://b/", true},
		{"http://a/", "http://b/", true},
		{"https://a/", "http://a/", false},
		{"https://a/", "file:///etc/passwd", false},
		{"https://a/", "https:///x", false},
		{"https://a/", "gopher://b/", false},
	} {
		from, _ := url.Parse(tt.from)
		to, _ := url.Parse(tt.to)
		if got := followable(from, to) == nil; got != tt.want {
			t.Errorf("from %s to %s: %v", tt.from, tt.to, got)
		}
	}
}

// Parsing ends, and what it finds is in what it was given.
func FuzzParseChallenges(f *testing.F) {
	for _, s := range []string{
		`Bearer realm="https://a/b",service="c"`, `Basic realm=x, Bearer realm="y\"z"`, `a b c=d,e`, `Bearer realm="`, `=`, `a ="`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ch, ok := parseChallenges(http.Header{"Www-Authenticate": {s}})
		if !ok {
			if ch != (challenge{}) {
				t.Errorf("%q: nothing found, but %+v", s, ch)
			}
			return
		}
		if ch.scheme != "basic" && (ch.scheme != "bearer" || ch.realm == "") {
			t.Errorf("%q: %+v", s, ch)
		}
		if len(ch.realm) > len(s) || len(ch.service) > len(s) {
			t.Errorf("%q: %+v is longer than what it is from", s, ch)
		}
	})
}
