package run_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/proto/git/gittest"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run"
	"github.com/boxbuild/boxbuild/solver/session"
)

// A fakeHost is a build whose blobs are in a map, and whose definitions are names of vertices.
type fakeHost struct {
	rig    *rig
	blobs  map[string]string // by what the blob is called
	graphs map[string]*solver.Vertex
}

func (h *fakeHost) OpenBlob(_ context.Context, b *op.Blob) (io.ReadCloser, error) {
	data, ok := h.blobs[fmt.Sprintf("%v %s %s %s", b.Layout, b.Ref, b.Store, b.Session)]
	if !ok {
		return nil, fmt.Errorf("no blob %s", b)
	}
	return io.NopCloser(strings.NewReader(data)), nil
}

func (h *fakeHost) Nest(ctx context.Context, definition []byte) (solver.Result, error) {
	v := h.graphs[string(definition)]
	if v == nil {
		return "", fmt.Errorf("bad definition %q", definition)
	}
	return h.rig.solve(ctx, v)
}

// TestBlob checks that a blob becomes a file with the attributes that were asked for, from a registry or a layout, and
// that one with another digest fails and leaves nothing.
func TestBlob(t *testing.T) {
	r := newRig(t)
	d := digest.FromString("content")
	r.host = &fakeHost{rig: r, blobs: map[string]string{"false host/repo  ": "content", "true host/repo store client": "content", "false bad  ": "other"}}
	vertex := func(b op.Blob) *solver.Vertex {
		b.Digest = d
		return solver.NewVertex(&b, nil, solver.Meta{Name: b.String()})
	}
	r.check(t, []treeCase{
		{"registry", vertex(op.Blob{Ref: "host/repo"}), []content{wantFile("/"+d.Encoded(), 0o600, "content")}},
		{
			"layout", vertex(op.Blob{Ref: "host/repo", Layout: true, Store: "store", Session: "client", Filename: "../x/name", Perm: 0o755, UID: 1, GID: 2}),
			[]content{want("/name", "file 0755 1:2 content")},
		},
	})
	for _, b := range []op.Blob{{Ref: "bad", Perm: 0o640}, {Ref: "missing", Perm: 0o641}, {Ref: "host/repo", Layout: true, Perm: 0o642}} {
		if _, err := r.solve(t.Context(), vertex(b)); err == nil {
			t.Errorf("%s was fetched", &b)
		}
	}
	r.host = nil
	if _, err := r.solve(t.Context(), vertex(op.Blob{Ref: "host/repo", Perm: 0o644})); err == nil {
		t.Error("a blob was fetched by nobody")
	}
}

// TestNested checks that a definition is read from the file of an input, inside its tree, and solved.
func TestNested(t *testing.T) {
	r := newRig(t)
	inner := mkfile(nil, "/inner", 0o644, "made")
	r.host = &fakeHost{rig: r, graphs: map[string]*solver.Vertex{"inner": inner}}
	def := mkfile(mkfile(nil, "/"+op.DefinitionFile, 0o644, "inner"), "/other", 0o644, "outer")
	link := fileStep(def, op.FileAction{Symlink: &op.Symlink{Old: "../../../" + op.DefinitionFile, New: "/link"}})
	away := fileStep(def, op.FileAction{Symlink: &op.Symlink{Old: "/etc/passwd", New: "/away"}})
	build := func(in *solver.Vertex, b op.Build) *solver.Vertex {
		return solver.NewVertex(&b, []solver.Input{{Vertex: in}}, solver.Meta{Name: b.String()})
	}
	inputs := []op.BuildInput{{Name: op.DefinitionInput}}
	r.check(t, []treeCase{
		{"default file", build(def, op.Build{Inputs: inputs}), []content{wantFile("/inner", 0o644, "made")}},
		{"through a link", build(link, op.Build{Inputs: inputs, File: "link"}), []content{wantFile("/inner", 0o644, "made")}},
	})
	for name, v := range map[string]*solver.Vertex{
		"bad definition": build(def, op.Build{Inputs: inputs, File: "/other"}),
		"no file":        build(def, op.Build{Inputs: inputs, File: "/nothing"}),
		"a directory":    build(def, op.Build{Inputs: inputs, File: "/"}),
		"no input":       build(def, op.Build{}),
		"host's file":    build(away, op.Build{Inputs: inputs, File: "/away"}),
		"bad input":      build(def, op.Build{Inputs: []op.BuildInput{{Name: op.DefinitionInput, Input: 3}}}),
	} {
		if _, err := r.solve(t.Context(), v); err == nil {
			t.Errorf("%s: it was solved", name)
		}
	}
}

// TestPassthrough checks that outputs are the inputs that they say, several times and in any order.
func TestPassthrough(t *testing.T) {
	r := newRig(t)
	a, b := mkfile(nil, "/a", 0o644, "a"), mkfile(nil, "/b", 0o644, "b")
	p := solver.NewVertex(&op.Passthrough{ID: "x", Out: []int{1, 0, 1}}, []solver.Input{{Vertex: a}, {Vertex: b}}, solver.Meta{Name: "pass"})
	for i, want := range []*solver.Vertex{b, a, b} {
		got := solver.NewVertex(&op.Passthrough{Out: []int{0}}, []solver.Input{{Vertex: p, Output: i}}, solver.Meta{Name: "out"})
		if got, want := r.snapshotOf(got), r.snapshotOf(want); got != want {
			t.Errorf("output %d is %s, want %s", i, got, want)
		}
	}
	bad := solver.NewVertex(&op.Passthrough{Out: []int{2}}, []solver.Input{{Vertex: a}}, solver.Meta{Name: "bad"})
	if _, err := r.solve(t.Context(), bad); err == nil {
		t.Error("an input that is not there was passed through")
	}
}

// TestHTTPSignature checks that a file which a trusted key has signed is fetched, and no other, whatever is remembered.
func TestHTTPSignature(t *testing.T) {
	w := newWebRig(t)
	e, err := openpgp.NewEntity("somebody", "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var key, sig bytes.Buffer
	out, err := armor.Encode(&key, openpgp.PublicKeyType, nil)
	if err == nil {
		err = errors.Join(e.Serialize(out), out.Close(), openpgp.ArmoredDetachSign(&sig, e, strings.NewReader("hello"), nil))
	}
	if err != nil {
		t.Fatal(err)
	}
	w.etag.Store(`"1"`)
	plain := &op.HTTP{URL: w.server.URL + "/f"}
	signed := &op.HTTP{URL: plain.URL, Signature: &op.HTTPSignature{PublicKeys: key.String(), Signature: sig.String()}}
	for _, src := range []*op.HTTP{plain, signed} {
		if res, err := w.run(w.pin(src)); err != nil {
			t.Fatal(err)
		} else if got, _ := w.file(res, "f"); got != "hello" {
			t.Errorf("the file has %q", got)
		}
	}
	w.content.Store("other")
	w.etag.Store(`"2"`)
	w.pin(plain) // what is remembered from now on was not checked
	pinned, release, err := w.runner.PinHTTP(w.ctx(), signed, nil)
	if err == nil {
		release()
		_, err = w.run(pinned)
	}
	if err == nil || !strings.Contains(err.Error(), "verifying the signature") {
		t.Errorf("other content: got %v", err)
	}
	sum := digest.FromString("other")
	bySum := *signed
	bySum.Checksum, bySum.Digest, bySum.Name = sum, sum, "f"
	if _, err := w.run(&bySum); err == nil {
		t.Error("a checksum takes the place of the signature")
	}
	for _, half := range []*op.HTTPSignature{{PublicKeys: key.String()}, {Signature: sig.String()}} {
		if _, _, err := w.runner.PinHTTP(w.ctx(), &op.HTTP{URL: plain.URL, Signature: half}, nil); err == nil {
			t.Error("half a signature is enough")
		}
	}
}

// TestGitSignature checks what of a repository has to be signed, and by whom.
func TestGitSignature(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("needs ssh-keygen")
	}
	r := newRig(t)
	dir := t.TempDir()
	keys := map[string]string{}
	for _, name := range []string{"good", "other"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		pub, err := os.ReadFile(filepath.Join(dir, name+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = string(pub)
	}
	repo := gittest.New(t)
	repo.Git("config", "gpg.format", "ssh")
	repo.Git("config", "user.signingkey", filepath.Join(dir, "good"))
	repo.Write("f", "unsigned")
	repo.Commit("unsigned")
	repo.Git("tag", "-a", "-m", "x", "plain")
	repo.Git("tag", "-s", "-m", "x", "signed")
	repo.Write("f", "signed")
	repo.Git("add", "-A")
	repo.Git("commit", "-q", "-S", "-m", "signed")
	repo.Git("tag", "-a", "-m", "x", "onsigned")
	url := gittest.Serve(t, gittest.Smart).Publish(repo, "r.git")
	for _, tt := range []struct {
		ref string
		sig op.GitSignature
		ok  bool
	}{
		{"main", op.GitSignature{PublicKeys: keys["good"]}, true},
		{"main", op.GitSignature{PublicKeys: keys["other"]}, false},
		{"main", op.GitSignature{}, false},
		{"main", op.GitSignature{PublicKeys: keys["good"], RequireSignedTag: true}, false},
		{"signed", op.GitSignature{PublicKeys: keys["good"]}, true},
		{"signed", op.GitSignature{PublicKeys: keys["good"], RequireSignedTag: true}, true},
		{"signed", op.GitSignature{PublicKeys: keys["other"], RequireSignedTag: true}, false},
		{"signed", op.GitSignature{PublicKeys: keys["good"], IgnoreSignedTag: true}, false},
		{"plain", op.GitSignature{PublicKeys: keys["good"]}, false},
		{"onsigned", op.GitSignature{PublicKeys: keys["good"]}, true},
		{"onsigned", op.GitSignature{PublicKeys: keys["good"], RequireSignedTag: true}, false},
	} {
		for _, keep := range []bool{false, true} {
			src := &op.Git{Remote: url, Ref: tt.ref, KeepGitDir: keep, Signature: &tt.sig}
			_, err := r.runner.PinGit(t.Context(), src)
			if (err == nil) != tt.ok {
				t.Errorf("%s with %+v, .git kept: %v: got %v, want success: %v", tt.ref, tt.sig, keep, err, tt.ok)
			}
		}
	}
}

// TestGitBundle checks that a bundle that one build has made is what another one reads instead of the remote.
func TestGitBundle(t *testing.T) {
	r := newRig(t)
	_, url, first := repository(t)
	_, v := r.pinGit(&op.Git{Remote: url, Ref: "v1", CheckoutBundle: true})
	id := r.snapshotOf(v)
	var bundle []byte
	r.under(id, func(root string) {
		var err error
		if bundle, err = os.ReadFile(root + "/bundle"); err != nil {
			t.Fatal(err)
		}
	})
	ref := "oci-layout+blob://host/bundles@" + digest.FromBytes(bundle).String()
	r.host = &fakeHost{rig: r, blobs: map[string]string{"true host/bundles host/bundles client": string(bundle)}}
	ctx := run.WithHost(t.Context(), r.host)
	src := &op.Git{Remote: "https://nowhere.invalid/r.git", Ref: "refs/tags/v1", Checksum: first, Bundle: ref, BundleSession: "client"}
	pinned, err := r.runner.PinGit(ctx, src)
	if err != nil {
		t.Fatal(err)
	}
	r.check(t, []treeCase{{"from the bundle", solver.NewVertex(pinned, nil, solver.Meta{Name: "git"}), []content{
		wantDir("/dir", 0o755), wantFile("/dir/f", 0o644, "one"),
	}}})
	for name, bad := range map[string]op.Git{
		"no checksum":     {Bundle: ref},
		"other digest":    {Checksum: first, Ref: "v1", Bundle: strings.Replace(ref, digest.FromBytes(bundle).Encoded(), strings.Repeat("0", 64), 1), BundleSession: "client"},
		"no digest":       {Checksum: first, Ref: "v1", Bundle: "oci-layout+blob://host/bundles"},
		"other scheme":    {Checksum: first, Ref: "v1", Bundle: strings.Replace(ref, "oci-layout+blob", "file", 1)},
		"kept and bundle": {Ref: "v1", CheckoutBundle: true, KeepGitDir: true},
		"part and bundle": {Ref: "v1", CheckoutBundle: true, Subdir: "dir"},
		"other ref":       {Checksum: first, Ref: "nothing", Bundle: ref, BundleSession: "client"},
	} {
		bad.Remote = "https://nowhere.invalid/r.git"
		if _, err := r.runner.PinGit(session.With(ctx, nil), &bad); err == nil {
			t.Errorf("%s: it was pinned", name)
		}
	}
}
