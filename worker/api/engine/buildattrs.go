package engine

import (
	"encoding/csv"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	apiregistry "github.com/moby/moby/api/types/registry"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/worker"
)

// remoteSession is the context of a build that comes from the client's session.
const remoteSession = "client-session"

// remoteForms are the forms of a context that is fetched: a URL, a Git remote without a scheme, and GitHub's name.
var remoteForms = regexp.MustCompile(`^([a-zA-Z0-9+]+://|[a-zA-Z0-9-_]+@[a-zA-Z0-9-.]+:|github\.com/)`)

// A buildQuery is the request for a build.
type buildQuery struct {
	attrs        map[string]string // in BuildKit's words
	tags         []string
	outputs      []buildOutput
	entitlements []string
	session, id  string
	remote       string
	quiet, trace bool // the image's ID only; BuildKit's own messages
}

// A buildOutput is what becomes of the result.
type buildOutput struct {
	Type  string
	Attrs map[string]string
}

// parseBuild reads the request for a build.
func parseBuild(c *call) (*buildQuery, error) {
	q := &buildQuery{
		attrs: map[string]string{}, session: c.get("session"), id: c.get("buildid"), remote: c.get("remote"), quiet: c.is("q"),
	}
	switch v := c.get("version"); v {
	case "", "1":
	case "2":
		q.trace = true
	default:
		return nil, worker.Invalidf("invalid version %q", v)
	}
	if q.remote != "" && q.remote != remoteSession && !remoteForms.MatchString(q.remote) {
		return nil, worker.Invalidf("remote context %q is neither a URL nor a Git repository", q.remote)
	}
	if c.form.Has("securityopt") {
		return nil, worker.Invalidf("security options are not supported on linux")
	}
	if c.is("squash") {
		return nil, worker.Invalidf("squash is only supported with experimental mode")
	}
	if iso := container.Isolation(c.get("isolation")); !iso.IsDefault() {
		return nil, worker.Invalidf("unsupported isolation: %q", iso)
	}
	for _, t := range c.form["t"] {
		if t == "" {
			continue
		}
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return nil, worker.Invalidf("invalid tag %q: %v", t, err)
		}
		if _, ok := named.(reference.Digested); ok {
			return nil, worker.Invalidf("build tag cannot contain a digest")
		}
		q.tags = append(q.tags, reference.TagNameOnly(named).String())
	}
	for _, f := range []func(*call) error{q.texts, q.documents, q.network, q.limits} {
		if err := f(c); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// minMemory is the least that a process can be started with, in bytes.
const minMemory = 6 << 20

// texts reads what is passed on as it is.
func (q *buildQuery) texts(c *call) error {
	if n, err := strconv.ParseInt(c.get("memory"), 10, 64); err == nil && n > 0 && n < minMemory {
		return worker.Invalidf("Minimum memory limit allowed is 6MB")
	}
	for key, attr := range map[string]string{
		"dockerfile": "filename", "target": "target", "cgroupparent": "cgroup-parent", "shmsize": "shm-size", "memory": "memory",
		"memswap": "memswap", "cpushares": "cpushares", "cpuperiod": "cpuperiod", "cpuquota": "cpuquota",
		"cpusetcpus": "cpusetcpus", "cpusetmems": "cpusetmems",
	} {
		v := c.get(key)
		switch key {
		case "dockerfile", "target", "cgroupparent", "cpusetcpus", "cpusetmems":
		default:
			if v == "0" { // clients send that for numbers which are not set
				continue
			}
		}
		if v != "" {
			q.attrs[attr] = v
		}
	}
	if c.is("nocache") {
		q.attrs["no-cache"] = ""
	}
	if c.is("pull") {
		q.attrs["image-resolve-mode"] = "pull"
	}
	if p := c.get("platform"); p != "" && !c.before(32) {
		q.attrs["platform"] = p
	}
	if q.remote != "" && q.remote != remoteSession {
		q.attrs["context"] = q.remote
	}
	return nil
}

// documents reads what is JSON.
func (q *buildQuery) documents(c *call) error {
	var args map[string]*string
	var labels map[string]string
	var cacheFrom []string
	for _, d := range []struct {
		key, what string
		out       any
	}{
		{"buildargs", "error reading build args", &args},
		{"labels", "error reading labels", &labels},
		{"cachefrom", "error reading cache-from", &cacheFrom},
		{"outputs", "invalid outputs specified", &q.outputs},
	} {
		if v := c.get(d.key); v != "" {
			if err := json.Unmarshal([]byte(v), d.out); err != nil {
				return worker.Invalidf("%s: %v", d.what, err)
			}
		}
	}
	for k, v := range args {
		if v != nil { // nil is one that the client's environment did not have
			q.attrs["build-arg:"+k] = *v
		}
	}
	for k, v := range labels {
		q.attrs["label:"+k] = v
	}
	if len(cacheFrom) > 0 && q.session != "" {
		q.attrs["cache-from"] = strings.Join(cacheFrom, ",")
	}
	return nil
}

// network reads which network steps are on. Who may use the daemon may use the host's.
func (q *buildQuery) network(c *call) error {
	switch mode := c.get("networkmode"); mode {
	case "", "default", "bridge":
	case "none":
		q.attrs["force-network-mode"] = "none"
	case "host":
		q.attrs["force-network-mode"] = "host"
		q.entitlements = append(q.entitlements, frontend.EntitlementNetworkHost)
	default:
		return worker.Invalidf("network mode %q not supported by builder", mode)
	}
	var hosts []string
	for _, h := range c.form["extrahosts"] {
		host, ip, ok := strings.Cut(h, "=")
		if !ok {
			host, ip, ok = strings.Cut(h, ":")
		}
		if !ok || host == "" || ip == "" {
			return worker.Invalidf("invalid host %q: a name and an address are needed", h)
		}
		hosts = append(hosts, host+"="+strings.Trim(ip, "[]"))
	}
	return q.line("add-hosts", hosts)
}

// limits reads the limits for processes of steps.
func (q *buildQuery) limits(c *call) error {
	var limits []*units.Ulimit
	if v := c.get("ulimits"); v != "" {
		if err := json.Unmarshal([]byte(v), &limits); err != nil {
			return worker.Invalidf("error reading ulimit settings: %v", err)
		}
	}
	var texts []string
	for _, l := range limits {
		if l != nil {
			texts = append(texts, l.String())
		}
	}
	return q.line("ulimit", texts)
}

// line sets an attribute that is a line of comma-separated values.
func (q *buildQuery) line(key string, values []string) error {
	if len(values) == 0 {
		return nil
	}
	var b strings.Builder
	w := csv.NewWriter(&b)
	if err := w.Write(values); err != nil {
		return worker.Invalidf("%v", err)
	}
	w.Flush()
	q.attrs[key] = strings.TrimSuffix(b.String(), "\n")
	return nil
}

// registryConfig is the credentials of a build, for several registries; nil if there are none.
func registryConfig(c *call) authn.Keychain {
	var confs map[string]apiregistry.AuthConfig
	value := c.r.Header.Get("X-Registry-Config")
	if value == "" || decodeHeader(value, &confs) != nil { // as with docker, what cannot be read is none
		return nil
	}
	var chains []authn.Keychain
	for _, host := range slices.Sorted(maps.Keys(confs)) {
		conf := confs[host]
		chains = append(chains, registry.StaticKeychain(host, credentials(&conf)))
	}
	if len(chains) == 0 {
		return nil
	}
	return authn.NewMultiKeychain(chains...)
}
