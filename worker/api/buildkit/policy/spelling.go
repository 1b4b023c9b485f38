package policy

import (
	"net/url"
	"path"
	"slices"
	"strings"
)

// spellings returns other identifiers of what id names, as one who writes rules would write them: host names in lower case
// and without a default port or a user, paths without detours, and repositories with and without ".git". Whoever is denied a
// source could write it in another way (CVE-2026-93326).
func spellings(id string) []string {
	scheme, rest, _ := strings.Cut(id, "://")
	var out []string
	switch scheme {
	case "docker-image", "docker-image+blob":
		host, name, ok := strings.Cut(rest, "/")
		if ok {
			out = []string{scheme + "://" + plainHost(host, "443") + "/" + name}
		}
	case "git":
		rest, fragment, ok := strings.Cut(rest, "#")
		if ok {
			fragment = "#" + fragment
		}
		host, name, _ := strings.Cut(rest, "/")
		host, name = plainHost(host, "443", "80", "22", "9418"), strings.TrimSuffix(path.Join("/", name), ".git")
		out = []string{scheme + "://" + host + name + fragment, scheme + "://" + host + name + ".git" + fragment}
	case "http", "https":
		u, err := url.Parse(id)
		if err != nil {
			break
		}
		port := map[string]string{"http": "80", "https": "443"}[u.Scheme]
		clean := url.URL{Scheme: u.Scheme, Host: plainHost(u.Host, port), Path: u.Path, RawQuery: u.RawQuery}
		out = []string{clean.String()}
		if clean.Path = path.Join("/", u.Path); strings.HasSuffix(u.Path, "/") && clean.Path != "/" {
			clean.Path += "/"
		}
		out = append(out, clean.String())
	}
	return slices.DeleteFunc(slices.Compact(out), func(s string) bool { return s == id })
}

// plainHost returns the usual way to write a host. Ports are those that it need not say.
func plainHost(host string, ports ...string) string {
	host = strings.ToLower(host[strings.LastIndexByte(host, '@')+1:])
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		name, port = host[:i], host[i:]
	}
	name = strings.TrimSuffix(name, ".") // which says that the name is complete
	if slices.Contains(ports, strings.TrimPrefix(port, ":")) || port == ":" {
		port = ""
	}
	if name == "registry-1.docker.io" || name == "index.docker.io" {
		name = "docker.io"
	}
	return name + port
}
