package builder_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/exporter/local"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/frontend/dockerfile"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/snapshot/lease"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// twice asks for two platforms.
func twice(q *worker.BuildRequest) { q.Frontend.Platforms = []op.Platform{amd64, arm64} }

// out asks for one output, with attributes "a=b".
func out(o worker.Output, attrs ...string) func(*worker.BuildRequest) {
	o.Attrs = map[string]string{}
	for _, a := range attrs {
		k, v, _ := strings.Cut(a, "=")
		o.Attrs[k] = v
	}
	return func(q *worker.BuildRequest) { q.Outputs = []worker.Output{o} }
}

func tags(names ...string) func(*worker.BuildRequest) {
	return func(q *worker.BuildRequest) { q.Tags = names }
}

// document reads a manifest or index of the registry.
func document(t *testing.T, r *rig, repo, ref string) (doc ocispec.Index, raw []byte) {
	t.Helper()
	_, raw, ok := r.registry.Manifest(repo, ref)
	if !ok {
		t.Fatalf("the registry has no %s:%s", repo, ref)
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	return doc, raw
}

const perPlatform = "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /f\n"

// TestIndex checks that a build for two platforms makes an index, which has a name in the store; that a push sends just
// that; that another name of it does so too; and that the metadata names it.
func TestIndex(t *testing.T) {
	r := newRig(t)
	r.file("amd64", "x86")
	r.file("arm64", "arm")
	name := r.host + "/app:1"
	res, _, err := r.build(perPlatform, twice, tags(name))
	if err != nil {
		t.Fatal(err)
	}
	digest := res.Metadata["containerimage.digest"]
	n, err := r.store.Name(name)
	if err != nil || len(n.Images) != 2 || n.Index == nil || string(n.Index.Digest) != digest {
		t.Fatalf("name %+v, %v; want an index %s of two", n, err, digest)
	}
	if id, ok := res.Metadata["containerimage.config.digest"]; ok || res.Metadata["image.name"] != name {
		t.Errorf("metadata names a config %q of several, and the name %q", id, res.Metadata["image.name"])
	}
	for i, p := range []op.Platform{amd64, arm64} {
		if img, err := r.store.Get(name, &p); err != nil || img.ID != res.Images[i].ID {
			t.Errorf("%s: %v", p.Architecture, err)
		}
	}
	desc, err := r.move.Push(t.Context(), name, worker.TransferOptions{})
	if err != nil || string(desc.Digest) != digest {
		t.Fatalf("pushed %s, %v; want %s", desc.Digest, err, digest)
	}
	idx, _ := document(t, r, "app", "1")
	if len(idx.Manifests) != 2 || idx.Manifests[1].Platform.Architecture != "arm64" {
		t.Errorf("the registry has %+v", idx.Manifests)
	}
	// What a push of the build itself sends is the same.
	res, _, err = r.build(perPlatform, twice, tags(r.host+"/other:1"), out(worker.Output{Type: worker.OutputImage, Push: true}))
	if err != nil || res.Metadata["containerimage.digest"] != digest {
		t.Errorf("another push: %s, %v", res.Metadata["containerimage.digest"], err)
	}
}

// TestIndexUnnamed checks that the index of a build that has no name is in the store, for each platform; that the same build
// again leaves it there, and that another index of the same images takes its place.
func TestIndexUnnamed(t *testing.T) {
	r := newRig(t)
	r.file("amd64", "x86")
	r.file("arm64", "arm")
	first := ""
	for _, tt := range []struct {
		name  string
		attrs []string
		same  bool
	}{{name: "first", same: true}, {name: "again", same: true}, {name: "annotated", attrs: []string{"annotation-index.a=b"}}} {
		res, _, err := r.build(perPlatform, twice, tags(), out(worker.Output{Type: worker.OutputImage}, tt.attrs...))
		if err != nil {
			t.Fatal(err)
		}
		d := res.Metadata["containerimage.digest"]
		if first == "" {
			first = d
		}
		if (d == first) != tt.same {
			t.Errorf("%s: made %s after %s", tt.name, d, first)
		}
		for i, p := range []op.Platform{amd64, arm64} {
			if img, err := r.store.Get(d, &p); err != nil || img.ID != res.Images[i].ID || len(img.Names) > 0 {
				t.Errorf("%s, %s: got %+v, %v", tt.name, p.Architecture, img, err)
			}
		}
		if all, err := r.store.Unnamed(); err != nil || len(all) != 1 || string(all[0].Index.Digest) != d {
			t.Errorf("%s: the indices are %+v, %v; want %s alone", tt.name, all, err, d)
		}
	}
}

// TestIndexOfOne checks that one platform gives an index where that is asked for, and a manifest elsewhere.
func TestIndexOfOne(t *testing.T) {
	r := newRig(t)
	r.file("amd64", "x86")
	for arg, want := range map[string]bool{"1": true, "0": false, "": false} {
		_, _, err := r.build(perPlatform, tags(r.host+"/one:v"+arg), out(worker.Output{Type: worker.OutputImage, Push: true}),
			func(q *worker.BuildRequest) { q.Frontend.BuildArgs = map[string]string{"BUILDKIT_MULTI_PLATFORM": arg} })
		if err != nil {
			t.Fatal(err)
		}
		if idx, _ := document(t, r, "one", "v"+arg); (len(idx.Manifests) == 1) != want {
			t.Errorf("%q: %+v, want an index: %v", arg, idx, want)
		}
		// The store gives it back as it was.
		_, before := document(t, r, "one", "v"+arg)
		if _, err := r.move.Push(t.Context(), r.host+"/one:v"+arg, worker.TransferOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, after := document(t, r, "one", "v"+arg); !bytes.Equal(before, after) {
			t.Errorf("%q: pushed again it is %s", arg, after)
		}
	}
}

// TestAnnotations checks that annotations come to where they belong, and are still there when the name is pushed later.
func TestAnnotations(t *testing.T) {
	r := newRig(t)
	r.file("amd64", "x86")
	r.file("arm64", "arm")
	name := r.host + "/app:1"
	attrs := []string{
		"annotation.all=1", "annotation-manifest[linux/arm64].arm=2", "annotation-manifest[linux/arm64].all=own",
		"annotation-index.i=3", "annotation-manifest-descriptor[linux/amd64].d=4", "compression=zstd",
	}
	if _, _, err := r.build(perPlatform, twice, tags(name), out(worker.Output{Type: worker.OutputImage}, attrs...)); err != nil {
		t.Fatal(err)
	}
	// All that the name needs for that is kept.
	if _, err := r.leases.Collect(t.Context(), lease.Policy{Evict: func(lease.Unit) bool { return true }}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.move.Push(t.Context(), name, worker.TransferOptions{}); err != nil {
		t.Fatal(err)
	}
	idx, _ := document(t, r, "app", "1")
	if want := map[string]string{"i": "3"}; !maps.Equal(idx.Annotations, want) {
		t.Errorf("the index has %v, want %v", idx.Annotations, want)
	}
	for i, want := range []map[string]string{{"all": "1"}, {"all": "own", "arm": "2"}} {
		m, raw := document(t, r, "app", string(idx.Manifests[i].Digest))
		if !maps.Equal(m.Annotations, want) {
			t.Errorf("manifest %d has %v, want %v", i, m.Annotations, want)
		}
		if !strings.Contains(string(raw), "tar+zstd") {
			t.Errorf("layers of manifest %d are not as they were asked for: %s", i, raw)
		}
	}
	if d := idx.Manifests[0].Annotations; !maps.Equal(d, map[string]string{"d": "4"}) {
		t.Errorf("the first descriptor has %v", d)
	}
	const foreign = "annotation-manifest[linux/s390x].a=b"
	_, _, err := r.build(perPlatform, twice, tags(name), out(worker.Output{Type: worker.OutputImage, Push: true}, foreign))
	if err == nil || !strings.Contains(err.Error(), "invalid annotation: no platform linux/s390x found in source") {
		t.Errorf("an annotation for another platform: %v", err)
	}
	// A single image passes over it.
	one := r.host + "/app:one"
	_, _, err = r.build(perPlatform, tags(one), out(worker.Output{Type: worker.OutputImage, Push: true}, foreign, "annotation.c=d"))
	if err != nil {
		t.Fatal(err)
	}
	if _, raw := document(t, r, "app", "one"); !bytes.Contains(raw, []byte(`"c": "d"`)) || bytes.Contains(raw, []byte(`"a": "b"`)) {
		t.Errorf("the single image has %s", raw)
	}
}

// A sayer is a frontend that says more of its results than it makes.
type sayer struct {
	frontend.Frontend
	metadata map[string][]byte
}

func (s sayer) Translate(ctx context.Context, req *frontend.Request, env frontend.Env) (*frontend.Output, error) {
	out, err := s.Frontend.Translate(ctx, req, env)
	if err == nil {
		out.Metadata = s.metadata
	}
	return out, err
}

// TestAnnotationsSaid checks that annotations among the metadata of a frontend's result are written beside those that the output
// asks for, and go before these.
func TestAnnotationsSaid(t *testing.T) {
	r := newRig(t)
	r.file("amd64", "x86")
	r.file("arm64", "arm")
	said := func(md map[string]string) func(*worker.BuildRequest) {
		s := sayer{Frontend: dockerfile.New(), metadata: map[string][]byte{}}
		for k, v := range md {
			s.metadata[k] = []byte(v)
		}
		return func(q *worker.BuildRequest) { q.Use = s }
	}
	push := out(worker.Output{Type: worker.OutputImage, Push: true}, "annotation.o=out", "annotation.both=out", "annotation-index.oi=out")
	_, _, err := r.build(perPlatform, twice, tags(r.host+"/said:1"), push, said(map[string]string{
		"annotation.all": "said", "annotation.both": "said", "annotation-index.i": "said", "annotation-manifest[linux/arm64].arm": "said",
		"annotation-manifest-descriptor.d": "said", "annotation-manifest-descriptor[linux/amd64].amd": "said", "frontend.x": "no annotation",
	}))
	if err != nil {
		t.Fatal(err)
	}
	idx, _ := document(t, r, "said", "1")
	if want := map[string]string{"i": "said", "oi": "out"}; !maps.Equal(idx.Annotations, want) {
		t.Errorf("the index has %v, want %v", idx.Annotations, want)
	}
	manifests := []map[string]string{
		{"all": "said", "both": "said", "o": "out"},
		{"all": "said", "both": "said", "o": "out", "arm": "said"},
	}
	for i, want := range []map[string]string{{"d": "said", "amd": "said"}, {"d": "said"}} {
		if got := idx.Manifests[i].Annotations; !maps.Equal(got, want) {
			t.Errorf("descriptor %d has %v, want %v", i, got, want)
		}
		if m, _ := document(t, r, "said", string(idx.Manifests[i].Digest)); !maps.Equal(m.Annotations, manifests[i]) {
			t.Errorf("manifest %d has %v, want %v", i, m.Annotations, manifests[i])
		}
	}
	_, _, err = r.build(perPlatform, push, said(map[string]string{"annotation-layer.a": "b"}))
	if err == nil || !strings.Contains(err.Error(), "unrecognized annotation type layer") {
		t.Errorf("an annotation of nothing that there is: %v", err)
	}
}

// TestAttrs checks which attributes outputs have, and what is wrong with them.
func TestAttrs(t *testing.T) {
	r := newRig(t)
	img := worker.Output{Type: worker.OutputImage}
	push := worker.Output{Type: worker.OutputImage, Push: true}
	oci := worker.Output{Type: worker.OutputOCI, Dest: worker.Dest{Stream: &buffer{}}}
	files := worker.Output{Type: worker.OutputLocal, Dest: worker.Dest{Dir: t.TempDir()}}
	mirror := worker.Output{Type: worker.OutputLocal, Dest: worker.Dest{Files: func(context.Context, []local.Part) error { return nil }}}
	for _, tt := range []struct {
		out   worker.Output
		attrs string
		tag   string
		want  string // the error; "" for none
	}{
		{img, "store=true unpack=true name-canonical= dangling-name-prefix=x oci-artifact=true attestation-inline=true", "", ""},
		{img, "registry.insecure=false prefer-nondist-layers=false", "", ""},
		{img, "prefer-nondist-layers=", "", ""},
		{img, "unpack=x", "", "neither true nor false"},
		{img, "tar=true", "", `unknown attribute "tar"`},
		{img, "platform-split=true", "", `unknown attribute "platform-split"`},
		{img, "annotation-odd.a=b", "", "unrecognized annotation type odd"},
		{img, "annotation-manifest[].a=b", "", "unknown attribute"},
		{img, "annotation-manifest[x/y/z/w].a=b", "", "annotation-manifest[x/y/z/w].a"},
		{img, "annotation-index.a=b", "", "index annotations not supported for single platform export"},
		{img, "annotation-manifest-descriptor.a=b oci-mediatypes=false", "", `cannot export annotations with "oci-mediatypes=false"`},
		{img, "compression=zstd oci-mediatypes=false", "", ""},
		{img, "oci-artifact=true oci-mediatypes=false", "", `"oci-artifact=true" conflicts with "oci-mediatypes=false"`},
		{img, "compression-level=23", "", "not a number from 0 to 22"},
		{img, "source-date-epoch=soon", "", "invalid source-date-epoch: soon"},
		{img, "compression=estargz", "", "none of gzip"},
		{push, "push-by-digest=true", "app:1", "can't push tagged ref app:1 by digest"},
		{oci, "compression=uncompressed compression-level=1 force-compression= annotation.a=b rewrite-timestamp=true", "", ""},
		{oci, "push=true", "", `unknown attribute "push"`},
		{files, "platform-split=true mode=copy attestation-prefix=x source-date-epoch=1", "", ""},
		{files, "mode=delete", "", "mode=delete is not supported"},
		{mirror, "mode=delete", "", ""},
		{files, "mode=odd", "", "none of copy and delete"},
		{files, "platform-split=odd", "", "neither true nor false"},
		{files, "name=x", "", `unknown attribute "name"`},
		{files, "annotation.a=b", "", "unknown attribute"},
	} {
		var names []string
		if tt.tag != "" {
			names = []string{tt.tag}
		}
		_, _, err := r.build("FROM scratch\n", tags(names...), out(tt.out, strings.Fields(tt.attrs)...))
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s %s: got %v, want %q", tt.out.Type, tt.attrs, err, tt.want)
		}
	}
}

// TestByDigest checks that a push by digest sets no tag, in the store neither, and that store=false stores nothing.
func TestByDigest(t *testing.T) {
	r := newRig(t)
	r.file("amd64", "x86")
	res, _, err := r.build(perPlatform, tags(), out(worker.Output{Type: worker.OutputImage, Push: true}, "name="+r.host+"/app", "push-by-digest=true"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok := r.registry.Manifest("app", res.Metadata["containerimage.digest"]); !ok {
		t.Error("the registry has no manifest of that digest")
	}
	if _, _, ok := r.registry.Manifest("app", "latest"); ok {
		t.Error("a tag was set")
	}
	if _, err := r.store.Name(r.host + "/app:latest"); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("the store has the name: %v", err)
	}
	r = newRig(t)
	r.file("amd64", "x86")
	_, _, err = r.build(perPlatform, tags(r.host+"/app:1"), out(worker.Output{Type: worker.OutputImage, Push: true}, "store=false", "annotation.a=b"))
	if err != nil {
		t.Fatal(err)
	}
	if all, err := r.store.List(); err != nil || len(all) != 0 {
		t.Errorf("the store has %d images, %v", len(all), err)
	}
	document(t, r, "app", "1")
}

// archive builds an OCI archive and returns it.
func (r *rig) archive(text string, change ...func(*worker.BuildRequest)) []byte {
	r.t.Helper()
	var b buffer
	change = append(change, func(q *worker.BuildRequest) {
		for i := range q.Outputs {
			q.Outputs[i].Type, q.Outputs[i].Dest.Stream = worker.OutputOCI, &b
		}
	})
	if _, _, err := r.build(text, change...); err != nil {
		r.t.Fatal(err)
	}
	return b.Bytes()
}

// TestReproducible checks that with SOURCE_DATE_EPOCH and rewrite-timestamp two daemons make the same bytes, that the times
// in new layers are bounded by it and those of the base are not, and that what the store then has is what was exported.
func TestReproducible(t *testing.T) {
	const text = "FROM HOST/base\nCOPY a /a\nSHELL [\"/sh\", \"-c\"]\nRUN write out hello\nWORKDIR /w\n"
	epoch := func(q *worker.BuildRequest) { q.Frontend.BuildArgs = map[string]string{"SOURCE_DATE_EPOCH": "1000000"} }
	rewritten := out(worker.Output{}, "rewrite-timestamp=true")
	var archives [][]byte
	var last *rig
	for year := range 2 {
		r := newRig(t)
		r.base("base")
		r.file("a", "one")
		later := time.Date(2001+year, 1, 1, 0, 0, 0, 0, time.UTC)
		if err := os.Chtimes(filepath.Join(r.context, "a"), later, later); err != nil {
			t.Fatal(err)
		}
		archives = append(archives, r.archive(text, epoch, rewritten))
		last = r
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two daemons make different archives")
	}
	if bytes.Equal(archives[0], last.archive(text, epoch, out(worker.Output{}))) {
		t.Error("times are rewritten although nobody asks")
	}
	if !bytes.Equal(archives[0], last.archive(text, rewritten, out(worker.Output{}, "rewrite-timestamp=true", "source-date-epoch=1000000"))) {
		t.Error("an epoch of the output makes something else than one of the build")
	}
	// The manifest says so of each layer but the base's, and a rewritten layer has the compression that is asked for.
	flat := last.archive(text, epoch, out(worker.Output{}, "rewrite-timestamp=true", "compression=uncompressed"))
	for _, a := range [][]byte{archives[0], flat} {
		if got := bytes.Count(a, []byte(`"`+exporter.Rewritten+`": "1000000"`)); got != 3 {
			t.Errorf("%d layers are said to be rewritten, not 3", got)
		}
	}
	if got := bytes.Count(flat, []byte(`"`+ocispec.MediaTypeImageLayerGzip+`"`)); got != 0 {
		t.Errorf("%d layers are compressed", got)
	}
	// The same image without being rewritten is not said to be, though a registry has it so.
	const old = "FROM scratch\nCOPY a /a\n"
	past := time.Unix(0, 0)
	if err := os.Chtimes(filepath.Join(last.context, "a"), past, past); err != nil {
		t.Fatal(err)
	}
	name := last.host + "/old:1"
	_, _, err := last.build(old, epoch, tags(name), out(worker.Output{Type: worker.OutputImage, Push: true}, "rewrite-timestamp=true"))
	if err != nil {
		t.Fatal(err)
	}
	if _, raw := document(t, last, "old", "1"); !bytes.Contains(raw, []byte(exporter.Rewritten)) {
		t.Errorf("a layer without later times has %s", raw)
	}
	if bytes.Contains(last.archive(old, epoch, out(worker.Output{})), []byte(exporter.Rewritten)) {
		t.Error("layers are said to be rewritten although nobody asks")
	}
	_, _, err = last.build(text, epoch, tags("app:1"), out(worker.Output{Type: worker.OutputImage}, "rewrite-timestamp=true"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := last.store.Get("app:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(archives[0], []byte(img.ID.Encoded())) || img.Created.Unix() != 1000000 {
		t.Errorf("the store has %s of %v, which the archive lacks", img.ID, img.Created)
	}
	m, err := last.move.Manifest(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{0, 1000000, 1000000, 1000000} { // the base's tar has no times
		tr, err := m.Layers[i].Tar(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for r := tar.NewReader(tr); ; {
			hdr, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := hdr.ModTime.Unix(); got != want {
				t.Errorf("layer %d: %s has time %d, want %d", i, hdr.Name, got, want)
			}
		}
		tr.Close()
	}
}

// TestSplit checks where the files of several platforms go.
func TestSplit(t *testing.T) {
	r := newRig(t)
	r.file("amd64", "x86")
	r.file("arm64", "arm")
	names := func(text string, change ...func(*worker.BuildRequest)) (string, error) {
		var b buffer
		change = append(change, func(q *worker.BuildRequest) { q.Outputs[0].Dest.Stream = &b })
		if _, _, err := r.build(text, change...); err != nil {
			return "", err
		}
		return strings.Join(tarNames(t, &b), " "), nil
	}
	files, asTar := worker.Output{Type: worker.OutputLocal}, worker.Output{Type: worker.OutputTar}
	const apart = "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /$TARGETARCH\n"
	for _, tt := range []struct {
		name, text string
		change     []func(*worker.BuildRequest)
		want, err  string
	}{
		{"one", perPlatform, []func(*worker.BuildRequest){out(files)}, "f", ""},
		{"one, split", perPlatform, []func(*worker.BuildRequest){out(files, "platform-split=true")}, "linux_amd64/ linux_amd64/f", ""},
		{"two", perPlatform, []func(*worker.BuildRequest){out(files), twice}, "linux_amd64/ linux_amd64/f linux_arm64/ linux_arm64/f", ""},
		{"two together", apart, []func(*worker.BuildRequest){out(files, "platform-split=false"), twice}, "amd64 arm64", ""},
		{"two in a tar", apart, []func(*worker.BuildRequest){out(asTar, "platform-split=false"), twice}, "linux_amd64/ linux_amd64/amd64 linux_arm64/ linux_arm64/arm64", ""},
		{"two of the same", perPlatform, []func(*worker.BuildRequest){out(files, "platform-split=false"), twice}, "", "cannot overwrite f from linux/amd64 with linux/arm64"},
	} {
		got, err := names(tt.text, tt.change...)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v, want %q", tt.name, err, tt.err)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
	_, _, err := r.build(perPlatform, twice, out(worker.Output{Type: worker.OutputDocker, Dest: worker.Dest{Stream: &buffer{}}}))
	if err == nil || !strings.Contains(err.Error(), "docker exporter does not currently support exporting manifest lists") {
		t.Errorf("for docker: %v", err)
	}
	var use *frontend.UsageError
	if errors.As(err, &use) {
		t.Error("that is known only when the file has been read")
	}
}
