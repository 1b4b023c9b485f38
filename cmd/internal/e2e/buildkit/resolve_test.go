package buildkit

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// resolved asks what a source is.
func resolved(ctx context.Context, c gateway.Client, id string, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	return c.ResolveSourceMetadata(ctx, &pb.SourceOp{Identifier: id}, opt)
}

// TestResolveImage checks that an image is resolved to a digest and its configuration, and that the digest names it then,
// also if no registry has it.
func TestResolveImage(t *testing.T) {
	d := start(t)
	d.load()
	_, p, err := d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		ref, dgst, config, err := c.ResolveImageConfig(ctx, "busybox", sourceresolver.Opt{
			LogName: "looking for busybox", ImageOpt: &sourceresolver.ResolveImageOpt{ResolveMode: "local", Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}},
		})
		var img ocispec.Image
		if err != nil || json.Unmarshal(config, &img) != nil || img.OS != "linux" || len(img.RootFS.DiffIDs) == 0 {
			t.Errorf("got %q, %q, %s, %v", ref, dgst, config, err)
		}
		m, err := resolved(ctx, c, "docker-image://docker.io/library/busybox:latest", sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{NoConfig: true}})
		if err != nil || m.Image == nil || m.Image.Digest != dgst || len(m.Image.Config) != 0 {
			t.Errorf("got %+v, %v, want the digest %s", m, err, dgst)
		}
		at, err := solved(ctx, c, shell(llb.Image("docker.io/library/busybox:latest@"+dgst.String()), "echo by digest > /out"), true)
		if err != nil {
			return nil, err
		}
		if out, err := at.ReadFile(ctx, gateway.ReadRequest{Filename: "/out"}); err != nil || string(out) != "by digest\n" {
			t.Errorf("got %q, %v", out, err)
		}
		if _, err := resolved(ctx, c, "docker-image://localhost:1/none:x", sourceresolver.Opt{}); err == nil {
			t.Error("an image is found that is not there")
		}
		return gateway.NewResult(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.has("looking for busybox") == nil {
		t.Errorf("the steps are %q", p.order)
	}
}

// TestResolveAttestations checks that a client is told what attests an image and who has signed that.
func TestResolveAttestations(t *testing.T) {
	d := start(t)
	reg := registrytest.New(registrytest.Behaviour{Referrers: true})
	host := registrytest.Start(t, reg)
	put := func(m ocispec.Manifest) ocispec.Descriptor {
		m.SchemaVersion, m.MediaType = 2, ocispec.MediaTypeImageManifest
		m.Config = ocispec.DescriptorEmptyJSON
		m.Config.Digest = digest.Digest(reg.PutBlob("app", m.Config.Data))
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.Digest(reg.PutManifest("app", "", m.MediaType, b)), Size: int64(len(b))}
	}
	blob := func(mediaType, text string) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(reg.PutBlob("app", []byte(text))), Size: int64(len(text))}
	}
	p := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	dgst, raw := reg.PutImage("app", "", []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers"}}`))
	img := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(dgst), Size: int64(len(raw)), Platform: &p}
	const kind, bundle = "https://slsa.dev/provenance/v1", "application/vnd.dev.sigstore.bundle.v0.3+json"
	statement := blob("application/vnd.in-toto+json", `{"predicateType":"`+kind+`"}`)
	statement.Annotations = map[string]string{"in-toto.io/predicate-type": kind}
	att := put(ocispec.Manifest{Layers: []ocispec.Descriptor{statement}})
	att.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	att.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": dgst}
	signed := blob(bundle, "{}")
	signature := put(ocispec.Manifest{ArtifactType: bundle, Subject: &att, Layers: []ocispec.Descriptor{signed}})
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{img, att}}
	index.SchemaVersion = 2
	text, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	root := digest.Digest(reg.PutManifest("app", "latest", index.MediaType, text))
	_, _, err = d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		m, err := resolved(ctx, c, "docker-image://"+host+"/app:latest", sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{
			NoConfig: true, ResolveAttestations: []string{kind}, Platform: &p, ResolveMode: pb.AttrImageResolveModeForcePull,
		}})
		if err != nil {
			return nil, err
		}
		ac := m.Image.AttestationChain
		if m.Image.Digest != root || ac == nil || ac.Root != root || ac.ImageManifest != img.Digest || ac.AttestationManifest != att.Digest ||
			len(ac.SignatureManifests) != 1 || ac.SignatureManifests[0] != signature.Digest || len(ac.Blobs) != 5 {
			t.Fatalf("got %+v", ac)
		}
		for _, d := range []digest.Digest{root, att.Digest, statement.Digest, signature.Digest, signed.Digest} {
			if b := ac.Blobs[d]; digest.FromBytes(b.Data) != d || b.Descriptor.Digest != d || b.Descriptor.Size != int64(len(b.Data)) {
				t.Errorf("%s: got %+v", d, b)
			}
		}
		return gateway.NewResult(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestResolveHTTP checks what is said of a file on a server, with a sum of its content and a suffix.
func TestResolveHTTP(t *testing.T) {
	d := start(t)
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	content := []byte("the content")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "file.txt", at, bytes.NewReader(content))
	}))
	defer srv.Close()
	_, _, err := d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		m, err := resolved(ctx, c, srv.URL+"/dir/file.txt", sourceresolver.Opt{HTTPOpt: &sourceresolver.ResolveHTTPOpt{
			ChecksumReq: &sourceresolver.ResolveHTTPChecksumRequest{Algo: sourceresolver.ResolveHTTPChecksumAlgoSHA512, Suffix: []byte("-end")},
		}})
		if err != nil {
			return nil, err
		}
		want := fmt.Sprintf("sha512:%x", sha512.Sum512([]byte("the content-end")))
		switch h := m.HTTP; {
		case h == nil || h.Digest != digest.FromBytes(content) || h.Filename != "file.txt" || h.LastModified == nil || !h.LastModified.Equal(at):
			t.Errorf("got %+v", h)
		case h.ChecksumResponse == nil || h.ChecksumResponse.Digest != want || string(h.ChecksumResponse.Suffix) != "-end":
			t.Errorf("got the sum %+v, want %s", h.ChecksumResponse, want)
		}
		return gateway.NewResult(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestResolveGit checks what is said of references to a repository: a branch and an annotated tag, with their objects. Each is
// asked for once a build.
func TestResolveGit(t *testing.T) {
	d := start(t)
	dir := t.TempDir()
	git := func(args ...string) string {
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=n", "-c", "user.email=e@x"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		git("add", "file")
	}
	git("init", "-q", "-b", "main", ".")
	write("old")
	git("commit", "-q", "-a", "-m", "the commit")
	git("tag", "-a", "v1", "-m", "the tag")
	git("update-server-info")
	srv := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(dir))))
	defer srv.Close()
	commit, tag := git("rev-parse", "main"), git("rev-parse", "v1")
	_, _, err := d.direct(t.Context(), client.SolveOpt{}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		ask := func(ref string) *sourceresolver.ResolveGitResponse {
			m, err := c.ResolveSourceMetadata(ctx, &pb.SourceOp{
				Identifier: "git://" + strings.TrimPrefix(srv.URL, "http://") + "/.git#" + ref,
				Attrs:      map[string]string{pb.AttrFullRemoteURL: srv.URL + "/.git"},
			}, sourceresolver.Opt{GitOpt: &sourceresolver.ResolveGitOpt{ReturnObject: true}})
			if err != nil || m.Git == nil {
				t.Errorf("%s: got %+v, %v", ref, m, err)
				return &sourceresolver.ResolveGitResponse{}
			}
			return m.Git
		}
		if g := ask("main"); g.Ref != "refs/heads/main" || g.Checksum != commit || g.CommitChecksum != "" || !strings.HasSuffix(string(g.CommitObject), "\n\nthe commit\n") || g.TagObject != nil {
			t.Errorf("the branch: got %+v", g)
		}
		if g := ask("v1"); g.Ref != "refs/tags/v1" || g.Checksum != tag || g.CommitChecksum != commit || !strings.HasSuffix(string(g.TagObject), "\n\nthe tag\n") || len(g.CommitObject) == 0 {
			t.Errorf("the tag: got %+v", g)
		}
		// A tag that has moved meanwhile is what it was, in answers and in what is built, with and without .git.
		write("new")
		git("commit", "-q", "-a", "-m", "another")
		git("tag", "-f", "v1")
		git("update-server-info")
		if g := ask("v1"); g.Checksum != tag || g.CommitChecksum != commit {
			t.Errorf("the tag when it has moved: got %+v", g)
		}
		for name, want := range map[string]string{".git/HEAD": commit, "file": "old"} {
			opts := []llb.GitOption{llb.GitRef("v1")}
			if name != "file" {
				opts = append(opts, llb.KeepGitDir())
			}
			ref, err := solved(ctx, c, llb.Git(srv.URL+"/.git", "", opts...), true)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			got, err := ref.ReadFile(ctx, gateway.ReadRequest{Filename: name})
			if err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s: got %q, %v, want %s", name, got, err, want)
			}
		}
		return gateway.NewResult(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
