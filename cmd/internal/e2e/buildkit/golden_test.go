package buildkit

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/moby/buildkit/util/progress/progresswriter"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// record is the address of a buildkitd, "unix:///path", whose progress is to become what testdata/progress wants. All that it
// has in its cache is removed.
var record = flag.String("record", "", "write the golden files from the buildkitd at this address")

// goldenHeader is the start of each golden file.
const goldenHeader = `# What buildkitd %s tells of a build: see TestGoldenProgress. To record it again, with a buildkitd of one's own whose cache
# may be emptied: go test ./cmd/internal/e2e/buildkit -run TestGoldenProgress -record unix:///path/of/its/socket
`

// A lab is what the builds of a test have around them. It is the same for each.
type lab struct {
	t                      *testing.T
	c                      *client.Client
	registry, private, web string // addresses
	config                 *configfile.ConfigFile
	salt                   string // in all content, so that a builder knows none of it
}

// newLab makes the registries and servers: REGISTRY has base:1, of two layers, for linux/amd64 and linux/arm64; PRIVATE has
// it too, for whoever has a token; WEB has context.tar, file.txt and the repository repo.git.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, config: configfile.New(""), salt: rand.Text()}
	open := registrytest.New(registrytest.Behaviour{})
	l.registry = registrytest.Start(t, open)
	tokens := &registrytest.TokenServer{Service: "lab", Users: map[string]string{"ann": "secret"}}
	auth := &registrytest.Auth{Tokens: tokens}
	private := registrytest.New(registrytest.Behaviour{Auth: auth})
	mux := http.NewServeMux()
	mux.Handle("/token", tokens)
	mux.Handle("/", private)
	l.private = registrytest.Start(t, mux)
	auth.Realm = "http://" + l.private + "/token"
	l.config.AuthConfigs = map[string]types.AuthConfig{l.private: {Username: "ann", Password: "secret", ServerAddress: l.private}}
	base, err := os.ReadFile(filepath.Join(os.Getenv("BOXBUILD_BASES"), "busybox.tar"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*registrytest.Registry{open, private} {
		seed(t, r, l.salt, slices.Concat(unended(t, "first", l.salt), base))
	}
	l.web = l.serve()
	return l
}

// seed puts base:1 into a registry, with these layers and one that differs by platform.
func seed(t *testing.T, r *registrytest.Registry, salt string, layers ...[]byte) {
	t.Helper()
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for _, arch := range []string{"amd64", "arm64"} {
		img := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}
		img.Config.Env = []string{"PATH=/bin"}
		img.RootFS.Type = "layers"
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
		m.SchemaVersion = 2
		put := func(mediaType string, b []byte) ocispec.Descriptor {
			return ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(r.PutBlob("base", b)), Size: int64(len(b))}
		}
		for _, l := range append(slices.Clone(layers), tarball(t, map[string]string{"second": salt + arch})) {
			img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(l))
			m.Layers = append(m.Layers, put(ocispec.MediaTypeImageLayerGzip, zipped(t, l)))
		}
		m.Config = put(ocispec.MediaTypeImageConfig, document(t, img))
		text := document(t, m)
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: m.MediaType, Digest: digest.Digest(r.PutManifest("base", "", m.MediaType, text)), Size: int64(len(text)), Platform: &img.Platform,
		})
	}
	r.PutManifest("base", "1", ocispec.MediaTypeImageIndex, document(t, index))
}

func document(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func zipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.NoCompression) // each case has a base of its own
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// serve serves files and a git repository, and returns the address.
func (l *lab) serve() string {
	dir := l.t.TempDir()
	files := map[string]string{"Dockerfile": "FROM scratch\nCOPY file /\n", "file": l.salt}
	if err := os.WriteFile(filepath.Join(dir, "context.tar"), tarball(l.t, files), 0o600); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file.txt"), []byte(l.salt), 0o600); err != nil {
		l.t.Fatal(err)
	}
	repo := filepath.Join(dir, "repo.git")
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", repo},
		{"-C", repo, "config", "uploadpack.allowAnySHA1InWant", "true"},
		{"-C", repo, "add", "."},
		{"-C", repo, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first"},
	} {
		cmd := exec.Command("git", args...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_DATE=2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2026-01-01T00:00:00Z")
		if out, err := cmd.CombinedOutput(); err != nil {
			l.t.Fatalf("git %q: %v\n%s", args, err, out)
		}
		if args[0] == "init" {
			for name, text := range files {
				if err := os.WriteFile(filepath.Join(repo, name), []byte(text), 0o600); err != nil {
					l.t.Fatal(err)
				}
			}
		}
	}
	git, err := exec.LookPath("git")
	if err != nil {
		l.t.Skip("there is no git")
	}
	mux := http.NewServeMux()
	mux.Handle("/repo.git/", &cgi.Handler{
		Path: git, Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null"},
	})
	mux.Handle("/", http.FileServer(http.Dir(dir)))
	s := httptest.NewServer(mux)
	l.t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// solve builds, and returns what was told.
func (l *lab) solve(opt client.SolveOpt) *told {
	l.t.Helper()
	login := authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{AuthConfigProvider: authprovider.LoadAuthConfig(l.config)})
	opt.Session = append(opt.Session, login)
	// What the provider of credentials tells is told by the client itself, among what comes from the daemon: see buildctl.
	ch, all := make(chan *client.SolveStatus), make(chan *client.SolveStatus)
	if s, ok := login.(interface{ SetLogger(progresswriter.Logger) }); ok {
		s.SetLogger(func(s *client.SolveStatus) { all <- s })
	}
	var t *told
	var forward, listen sync.WaitGroup
	forward.Go(func() {
		for s := range ch {
			all <- s
		}
	})
	listen.Go(func() { t = hear(all) })
	_, err := l.c.Solve(l.t.Context(), nil, opt, ch)
	forward.Wait()
	close(all)
	listen.Wait()
	if err != nil {
		l.t.Logf("the build failed: %v", err)
	}
	return t
}

// names replaces what differs from one lab to the next.
func (l *lab) names() *strings.Replacer {
	return strings.NewReplacer(l.registry, "REGISTRY", l.private, "PRIVATE", l.web, "WEB")
}

// filler replaces names by what they stand for in this lab.
func (l *lab) filler() *strings.Replacer {
	return strings.NewReplacer("REGISTRY", l.registry, "PRIVATE", l.private, "WEB", l.web)
}

// prune removes what the builder has.
func (l *lab) prune() {
	l.t.Helper()
	if err := l.c.Prune(context.Background(), nil, client.PruneAll); err != nil {
		l.t.Fatal(err)
	}
}

// TestGoldenProgress checks that clients are told the same of a build as BuildKit tells them: vertices by name, in order, with
// what they follow from, what was cached, the parts, what steps said, warnings and errors.
func TestGoldenProgress(t *testing.T) {
	var ours *client.Client
	if *record == "" {
		ours = start(t).c
	}
	for _, tc := range goldenCases() {
		t.Run(tc.name, func(t *testing.T) {
			if *record == "" {
				t.Parallel()
			}
			l := newLab(t)
			version := ""
			if l.c = ours; ours == nil {
				var err error
				if l.c, err = client.New(t.Context(), *record); err != nil {
					t.Fatal(err)
				}
				defer l.c.Close()
				l.prune()
				info, err := l.c.Info(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if version = info.BuildkitVersion.Version; strings.HasPrefix(version, "v0.0.0") { // built without saying what it is
					version = moduleVersion(t)
				}
			}
			var got strings.Builder
			for i, run := range tc.runs {
				if i > 0 {
					fmt.Fprintf(&got, "\n# then\n")
				}
				told := l.solve(run(l))
				for _, m := range told.misplaced() {
					t.Error(m)
				}
				got.WriteString(told.text(l.names()))
			}
			compare(t, tc.name, version, got.String())
		})
	}
}

// moduleVersion is the version of BuildKit's module that this one is built with, as a buildkitd that is made of it has.
func moduleVersion(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/moby/buildkit").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// compare compares what was told with the golden file, or writes it.
func compare(t *testing.T, name, version, got string) {
	t.Helper()
	path := filepath.Join("testdata", "progress", name+".txt")
	if version != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(fmt.Sprintf(goldenHeader, version)+got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(want), "\n# may be emptied:")
	_, text, _ = strings.Cut(text, "\n")
	if got, text = agreed(got, ours...), agreed(text, theirs...); got != text {
		t.Errorf("%s: told\n%s\nwant\n%s", path, got, text)
	}
}
