package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/boxbuild/boxbuild/proto/registry/registrytest"
)

// What refers to a manifest is listed, over as many pages as there are, or as the index under the tag that stands for the
// list where the registry knows none.
func TestReferrers(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprint(known), func(t *testing.T) {
			setUp := func(w *world) { w.reg.Referrers = known }
			inWorld(t, setUp, func(ctx context.Context, w *world) {
				d, raw := w.reg.PutImage("team/app", "1", []byte("{}"))
				subject, err := ParseDigest(d)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := w.c.Referrers(ctx, repoAt(testHost), subject); err != nil || len(got) != 0 {
					t.Errorf("of one that nothing refers to: got %v, %v", got, err)
				}
				var want []string
				index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
				for i := range 5 {
					b, err := json.Marshal(map[string]any{
						"schemaVersion": 2, "mediaType": types.OCIManifestSchema1, "artifactType": "a/b",
						"annotations": map[string]string{"n": fmt.Sprint(i)}, "subject": map[string]any{"digest": d, "size": len(raw)},
					})
					if err != nil {
						t.Fatal(err)
					}
					h, err := ParseDigest(w.reg.PutManifest("team/app", "", string(types.OCIManifestSchema1), b))
					if err != nil {
						t.Fatal(err)
					}
					want = append(want, h.String())
					index.Manifests = append(index.Manifests, Descriptor{
						MediaType: types.OCIManifestSchema1, Digest: h, Size: int64(len(b)), ArtifactType: "a/b",
						Annotations: map[string]string{"n": fmt.Sprint(i)},
					})
				}
				b, err := json.Marshal(index)
				if err != nil {
					t.Fatal(err)
				}
				if !known {
					w.reg.PutManifest("team/app", subject.Algorithm+"-"+subject.Hex, string(types.OCIImageIndex), b)
				}
				list, err := w.c.Referrers(ctx, repoAt(testHost), subject)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, d := range list {
					got = append(got, d.Digest.String())
					if d.ArtifactType != "a/b" || d.Annotations["n"] == "" || d.Size == 0 {
						t.Errorf("got %+v", d)
					}
				}
				slices.Sort(want)
				if slices.Sort(got); !slices.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
			})
		})
	}
}

// A refusal is no empty list, and neither is an answer that is no list.
func TestReferrersRefused(t *testing.T) {
	for _, tt := range []struct {
		fault registrytest.Fault
		want  error
	}{
		{registrytest.Fault{Status: 401}, ErrUnauthorized},
		{registrytest.Fault{Status: 500}, nil},
		{registrytest.Fault{Corrupt: true}, ErrManifest},
	} {
		inWorld(t, func(w *world) { w.reg.Referrers = true }, func(ctx context.Context, w *world) {
			w.reg.Fail(tt.fault)
			h := SumDigest([]byte("x"))
			if got, err := w.c.Referrers(ctx, repoAt(testHost), h); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%+v: got %v, %v", tt.fault, got, err)
			}
		})
	}
}

// A mirror is not asked what refers to a manifest, whatever the registry answers: it may have an old list.
func TestReferrersWithoutMirror(t *testing.T) {
	for _, known := range []bool{true, false} {
		var one *registrytest.Registry
		setUp := func(w *world) {
			one, _ = withMirrors(w)
			w.reg.Referrers, one.Referrers = known, known
		}
		inWorld(t, setUp, func(ctx context.Context, w *world) {
			h := SumDigest(nil)
			tag := h.Algorithm + "-" + h.Hex
			one.PutManifest("team/app", tag, string(types.OCIImageIndex), []byte(`{"schemaVersion":2,"manifests":[]}`))
			if _, err := w.c.Referrers(ctx, repoAt(testHost), h); err != nil || one.Count("", "") > 0 {
				t.Errorf("%v; the mirror was asked for %+v", err, one.Requests())
			}
		})
	}
}
