package registry

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
)

// helperScript is a credential helper that knows "https://index.docker.io/v1/", "helped.test" and "token.test", writes
// down what it was asked, and fails for "locked.test".
const helperScript = `#!/bin/sh
read -r key
echo "$1 $key" >> "$HELPER_LOG"
case "$key" in
https://index.docker.io/v1/) echo '{"ServerURL":"x","Username":"hub","Secret":"s1"}' ;;
helped.test) echo '{"Username":"helped","Secret":"s2"}' ;;
token.test) echo '{"Username":"<token>","Secret":"s3"}' ;;
locked.test) echo "the keyring is locked"; exit 1 ;;
noise.test) echo 'not JSON, s4' ;;
*) echo "credentials not found in native keychain"; exit 1 ;;
esac
`

// withHelper puts docker-credential-test on the PATH and returns the file that it writes to.
func withHelper(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(helperScript), 0o755); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("HELPER_LOG", log)
	return log
}

func dockerKeychainOf(t *testing.T, config string) authn.Keychain {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return DockerKeychain(dir)
}

// Each host gets what docker's file has for it, under any of the names that the file may use, and never another's.
func TestDockerKeychain(t *testing.T) {
	withHelper(t)
	const (
		ann = `{"auth":"YW5uOnNlY3JldA=="}` // ann:secret
		bob = `{"username":"bob","password":"pw"}`
	)
	for _, tt := range []struct {
		name, config, repo string
		want               string // user:password, or what is in its place
		err                string
	}{
		{"plain", `{"auths":{"a.test":` + ann + `}}`, "a.test/x", "ann:secret", ""},
		{"another host", `{"auths":{"a.test":` + ann + `}}`, "b.test/x", "", ""},
		{"another port", `{"auths":{"a.test":` + ann + `}}`, "a.test:5000/x", "", ""},
		{"a subdomain", `{"auths":{"a.test":` + ann + `}}`, "b.a.test/x", "", ""},
		{"a URL", `{"auths":{"https://a.test/v2/":` + bob + `}}`, "a.test/x", "bob:pw", ""},
		{"docker hub", `{"auths":{"https://index.docker.io/v1/":` + ann + `}}`, "busybox", "ann:secret", ""},
		{"docker hub as podman writes it", `{"auths":{"docker.io":` + ann + `}}`, "busybox", "ann:secret", ""},
		{"docker hub has none", `{"auths":{"a.test":` + ann + `}}`, "busybox", "", ""},
		{"identity token", `{"auths":{"a.test":{"identitytoken":"id"}}}`, "a.test/x", "id", ""},
		{"by path", `{"auths":{"a.test":` + ann + `,"a.test/team":` + bob + `}}`, "a.test/team/x", "bob:pw", ""},
		{"by path of another", `{"auths":{"a.test":` + ann + `,"a.test/team":` + bob + `}}`, "a.test/teams/x", "ann:secret", ""},
		{"only by path", `{"auths":{"a.test/team":` + bob + `}}`, "a.test/x", "", ""},
		{"store", `{"credsStore":"test"}`, "helped.test/x", "helped:s2", ""},
		{"store for docker hub", `{"credsStore":"test"}`, "busybox", "hub:s1", ""},
		{"store with a token", `{"credsStore":"test"}`, "token.test/x", "s3", ""},
		{"store without an entry", `{"credsStore":"test","auths":{"a.test":` + ann + `}}`, "a.test/x", "", ""},
		{"helper of the host", `{"credHelpers":{"helped.test":"test"},"auths":{"a.test":` + ann + `}}`, "a.test/x", "ann:secret", ""},
		{"helper for the host", `{"credHelpers":{"helped.test":"test"},"credsStore":"missing"}`, "helped.test/x", "helped:s2", ""},
		{"helper for docker hub", `{"credHelpers":{"docker.io":"test"}}`, "busybox", "hub:s1", ""},
		{"a helper that fails", `{"credsStore":"test","auths":{"locked.test":` + ann + `}}`, "locked.test/x", "", "the keyring is locked"},
		{"a helper that talks", `{"credsStore":"test"}`, "noise.test/x", "", "not what the protocol asks for"},
		{"a helper that is missing", `{"credsStore":"missing","auths":{"https://index.docker.io/v1/":` + ann + `}}`, "busybox", "", "docker-credential-missing"},
		{"a helper elsewhere", `{"credsStore":"../../bin/sh"}`, "busybox", "", "no path"},
		{"a broken entry", `{"auths":{"a.test":{"auth":"%%%"},"b.test":` + ann + `}}`, "a.test/x", "", "the entry for a.test"},
		{"beside a broken entry", `{"auths":{"a.test":{"auth":"%%%"},"b.test":` + ann + `}}`, "b.test/x", "ann:secret", ""},
		{"a broken file", `{"auths":`, "busybox", "", "reading"},
		{"an empty file", `{}`, "busybox", "", ""},
	} {
		repo, err := ParseRepo(tt.repo)
		if err != nil {
			t.Fatal(err)
		}
		cr := lookUp(t.Context(), dockerKeychainOf(t, tt.config), repo)
		got := cr.identity
		if cr.user != "" {
			got = cr.user + ":" + cr.password
		}
		if got != tt.want || (cr.err != nil) != (tt.err != "") || cr.err != nil && !strings.Contains(cr.err.Error(), tt.err) {
			t.Errorf("%s: got %q, error %v; want %q, %q", tt.name, got, cr.err, tt.want, tt.err)
		}
		if cr.err != nil && strings.Contains(cr.err.Error(), "s4") {
			t.Errorf("%s: the error repeats what may be a secret: %v", tt.name, cr.err)
		}
	}
	if cr := lookUp(t.Context(), DockerKeychain(filepath.Join(t.TempDir(), "none")), Repo{"a.test", "x"}); cr.err != nil || !cr.anonymous() {
		t.Errorf("without a file: %+v", cr)
	}
}

// A helper that hangs is ended with the context.
func TestHelperHangs(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho started > " + dir + "/started\nexec sleep 1000\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-slow"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for {
			if _, err := os.Stat(dir + "/started"); err == nil || ctx.Err() != nil {
				return
			}
		}
	}()
	if cr := lookUp(ctx, dockerKeychainOf(t, `{"credsStore":"slow"}`), Repo{"a.test", "x"}); cr.err == nil {
		t.Error("it has an answer")
	}
}

// A helper is asked once for a build, however many requests that makes.
func TestHelperIsAskedOnce(t *testing.T) {
	log := withHelper(t)
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := WithKeychain(t.Context(), dockerKeychainOf(t, `{"credsStore":"test"}`))
	for range 10 {
		if cr := c.credential(ctx, c.session(ctx), Repo{"helped.test", "x"}); cr.user != "helped" {
			t.Fatalf("got %+v", cr)
		}
	}
	if b, err := os.ReadFile(log); err != nil || string(b) != "get helped.test\n" {
		t.Errorf("it was asked %q, %v", b, err)
	}
}

// What a static keychain has is for its host alone, by whichever name docker hub is called.
func TestStaticKeychain(t *testing.T) {
	for _, tt := range []struct {
		host, repo string
		want       bool
	}{
		{"docker.io", "busybox", true},
		{"https://index.docker.io/v1/", "busybox", true},
		{"a.test:5000", "a.test:5000/x", true},
		{"a.test", "a.test:5000/x", false},
		{"a.test", "busybox", false},
		{"", "busybox", false},
	} {
		repo, err := ParseRepo(tt.repo)
		if err != nil {
			t.Fatal(err)
		}
		cr := lookUp(t.Context(), StaticKeychain(tt.host, authn.AuthConfig{Username: "ann", Password: "x"}), repo)
		if got := !cr.anonymous(); got != tt.want {
			t.Errorf("for %q, asked about %s: %v", tt.host, tt.repo, got)
		}
	}
	cr := lookUp(t.Context(), StaticKeychain("a.test", authn.AuthConfig{Username: "ann\r\nX: y"}), Repo{"a.test", "x"})
	if cr.err == nil || !cr.anonymous() {
		t.Errorf("with control characters: %+v", cr)
	}
}
