package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// maxHelperOutput is how much a credential helper may print, in bytes.
const maxHelperOutput = 1 << 20

// DockerKeychain returns a keychain that reads docker's config.json in a directory ("~/.docker", $DOCKER_CONFIG) each
// time it is asked, and runs the helper programs that it names, docker-credential-*, for as long as the asker's context
// allows. A file that does not exist has no credentials. A file or helper that is broken is an error, and then nothing is
// known for any host: no other entry stands in.
//
// go-containerregistry's own keychain is not used since it runs helpers without a context, twice for each repository, and
// decides by environment variables which file to read.
func DockerKeychain(dir string) authn.Keychain { return dockerKeychain(dir) }

type dockerKeychain string

// dockerConfig is what of config.json concerns credentials. Entries stay undecoded, so that one that is broken does not
// keep the others from being used.
type dockerConfig struct {
	Auths   map[string]json.RawMessage `json:"auths"`
	Store   string                     `json:"credsStore"`
	Helpers map[string]string          `json:"credHelpers"`
}

// Resolve implements authn.Keychain.
func (k dockerKeychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

// ResolveContext implements authn.ContextKeychain.
func (k dockerKeychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	file := filepath.Join(string(k), "config.json")
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, err
	}
	var conf dockerConfig
	if err := json.Unmarshal(b, &conf); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	host := canonicalHost(r.RegistryStr())
	if helper := conf.helper(host); helper != "" {
		auth, err := runHelper(ctx, helper, serverKey(host))
		if err != nil {
			return nil, fmt.Errorf("asking docker-credential-%s about %s: %w", printable(helper, 64), host, err)
		}
		return authn.FromConfig(auth), nil
	}
	raw, ok := conf.entry(host, strings.TrimPrefix(r.String(), r.RegistryStr()+"/"))
	if !ok {
		return authn.Anonymous, nil
	}
	var auth authn.AuthConfig
	if err := json.Unmarshal(raw, &auth); err != nil {
		return nil, fmt.Errorf("reading the entry for %s in %s: %w", host, file, err)
	}
	return authn.FromConfig(auth), nil
}

// serverKey returns the name under which docker keeps the credentials of a host.
func serverKey(host string) string {
	if host == dockerHub {
		return dockerHubKey
	}
	return host
}

// helper returns which program knows the credentials of a host; empty if the file itself does.
func (c *dockerConfig) helper(host string) string {
	if h, ok := c.Helpers[serverKey(host)]; ok {
		return h
	}
	for key, h := range c.Helpers {
		if canonicalHost(key) == host {
			return h
		}
	}
	return c.Store
}

// entry returns the file's entry for a repository: the one with the longest path that it is below, as podman writes
// them, and else the one for its host. Docker's keys may be URLs whose path means nothing.
func (c *dockerConfig) entry(host, path string) (json.RawMessage, bool) {
	if raw, ok := c.Auths[serverKey(host)]; ok && host == dockerHub {
		return raw, true
	}
	best, found := "", false
	for key := range c.Auths {
		if canonicalHost(key) != host {
			continue
		}
		p := keyPath(key)
		if p != "" && p != path && !strings.HasPrefix(path, p+"/") {
			continue
		}
		// Equal paths, from several spellings of one host, are decided by the spelling, so that it is always the same.
		if !found || len(p) > len(keyPath(best)) || len(p) == len(keyPath(best)) && key < best {
			best, found = key, true
		}
	}
	return c.Auths[best], found
}

// keyPath returns the path of repositories that a key is limited to.
func keyPath(key string) string {
	if strings.Contains(key, "://") {
		return ""
	}
	_, p, _ := strings.Cut(key, "/")
	p = strings.Trim(p, "/")
	if p == "v1" || p == "v2" {
		return ""
	}
	return p
}

// runHelper speaks docker's credential helper protocol: the key on standard input, JSON on standard output, and a fixed
// sentence with a failing status for a key that the helper does not know.
func runHelper(ctx context.Context, helper, key string) (authn.AuthConfig, error) {
	if strings.ContainsAny(helper, `/\`) || helper == "" {
		return authn.AuthConfig{}, errors.New("the name of a helper is no path")
	}
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, "get")
	cmd.Stdin = strings.NewReader(key)
	out := &cappedBuffer{}
	cmd.Stdout = out
	cmd.WaitDelay = time.Second // a child of the helper may keep its output open
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(out.buf.String())
		if said == "credentials not found in native keychain" {
			return authn.AuthConfig{}, nil
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) && said != "" {
			return authn.AuthConfig{}, fmt.Errorf("%w: %s", err, printable(said, 256))
		}
		return authn.AuthConfig{}, err
	}
	var doc struct{ Username, Secret string }
	if err := json.Unmarshal(out.buf.Bytes(), &doc); err != nil {
		return authn.AuthConfig{}, errors.New("its answer is not what the protocol asks for") // and may be a secret
	}
	if doc.Username == "<token>" {
		return authn.AuthConfig{IdentityToken: doc.Secret}, nil
	}
	return authn.AuthConfig{Username: doc.Username, Password: doc.Secret}, nil
}

// A cappedBuffer keeps the first maxHelperOutput bytes.
type cappedBuffer struct{ buf bytes.Buffer }

func (b *cappedBuffer) Write(p []byte) (int, error) {
	b.buf.Write(p[:min(len(p), maxHelperOutput-b.buf.Len())])
	return len(p), nil
}
