package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	ociImage    = string(types.OCIManifestSchema1)
	ociIndex    = string(types.OCIImageIndex)
	dockerImage = string(types.DockerManifestSchema2)
	dockerList  = string(types.DockerManifestList)
)

func descJSON(mediaType string) string {
	return fmt.Sprintf(`{"mediaType":%q,"size":1,"digest":%q}`, mediaType, sha256Zeros)
}

// Documents are what their type and their content agree on, and refused if they don't (CVE-2021-41190).
func TestDecode(t *testing.T) {
	layers := `"config":` + descJSON("c") + `,"layers":[` + descJSON("l") + `]`
	manifests := `"manifests":[` + descJSON(ociImage) + `]`
	for _, tt := range []struct {
		name, said, doc string
		want            string // the media type
		err             error
	}{
		{"OCI image", ociImage, `{"schemaVersion":2,` + layers + `}`, ociImage, nil},
		{"with its own type", ociImage, `{"schemaVersion":2,"mediaType":"` + ociImage + `",` + layers + `}`, ociImage, nil},
		{"OCI index", ociIndex, `{"schemaVersion":2,` + manifests + `}`, ociIndex, nil},
		{"docker image", dockerImage, `{"schemaVersion":2,"mediaType":"` + dockerImage + `",` + layers + `}`, dockerImage, nil},
		{"docker list", dockerList, `{"schemaVersion":2,` + manifests + `}`, dockerList, nil},
		{"parameters", ociIndex + "; charset=utf-8", `{"schemaVersion":2,` + manifests + `}`, ociIndex, nil},
		{"generic type, own type", "application/json", `{"mediaType":"` + dockerList + `",` + manifests + `}`, dockerList, nil},
		{"no type at all, index", "", `{` + manifests + `}`, ociIndex, nil},
		{"no type at all, image", "text/plain", `{` + layers + `}`, ociImage, nil},
		{"an empty index", ociIndex, `{"manifests":[]}`, ociIndex, nil},

		{"both", ociImage, `{` + layers + `,` + manifests + `}`, "", ErrManifest},
		{"both, as index", ociIndex, `{` + layers + `,` + manifests + `}`, "", ErrManifest},
		{"an image said to be an index", ociIndex, `{` + layers + `}`, "", ErrManifest},
		{"an index said to be an image", ociImage, `{` + manifests + `}`, "", ErrManifest},
		{"types that differ", ociImage, `{"mediaType":"` + dockerImage + `",` + layers + `}`, "", ErrManifest},
		{"layers twice", ociImage, `{` + layers + `,"layers":[]}`, "", ErrManifest},
		{"layers in capitals", ociImage, `{` + layers + `,"Layers":[]}`, "", ErrManifest},
		{"an unknown type", "text/html", `{` + layers + `}`, "", ErrManifest},
		{"no config", ociImage, `{"layers":[]}`, "", ErrManifest},
		{"neither", "", `{}`, "", ErrManifest},
		{"a bad digest", ociImage, `{"config":` + descJSON("c") + `,"layers":[{"size":1,"digest":"sha256:../../x"}]}`, "", ErrManifest},
		{"no digest", ociIndex, `{"manifests":[{"size":1}]}`, "", ErrManifest},
		{"a negative size", ociIndex, `{"manifests":[{"size":-1,"digest":"` + sha256Zeros + `"}]}`, "", ErrManifest},
		{"null", ociIndex, `null`, "", ErrManifest},
		{"a list", ociIndex, `[]`, "", ErrManifest},
		{"no JSON", ociIndex, `<html>`, "", ErrManifest},
		{"cut off", ociIndex, `{"manifests":[`, "", ErrManifest},
		{"more after it", ociIndex, `{` + manifests + `}{}`, "", ErrManifest},
		{"empty", ociIndex, ``, "", ErrManifest},

		{"schema 1", string(types.DockerManifestSchema1Signed), `{"schemaVersion":1}`, "", ErrSchema1},
		{"schema 1 in disguise", "", `{"schemaVersion":1,"fsLayers":[]}`, "", ErrSchema1},
		{"schema 1 by its field", ociImage, `{"fsLayers":[],` + layers + `}`, "", ErrSchema1},
		{"too many manifests", ociIndex, `{"manifests":[` + strings.Repeat(descJSON(ociImage)+",", 10_000) + descJSON(ociImage) + `]}`, "", ErrTooLarge},
		{"too many layers", ociImage, `{"config":` + descJSON("c") + `,"layers":[` + strings.Repeat(descJSON("l")+",", 2000) + descJSON("l") + `]}`, "", ErrTooLarge},
		{"too many bytes", ociIndex, `{` + manifests + `}` + strings.Repeat(" ", MaxManifest), "", ErrTooLarge},
	} {
		doc, err := Decode(tt.said, []byte(tt.doc))
		if !errors.Is(err, tt.err) || (tt.err == nil) != (err == nil) {
			t.Errorf("%s: got error %v, want %v", tt.name, err, tt.err)
			continue
		}
		if err == nil && (string(doc.MediaType) != tt.want || (doc.Image == nil) == (doc.Index == nil)) {
			t.Errorf("%s: got %+v, want %s", tt.name, doc, tt.want)
		}
	}
}

// The best entry for a platform is chosen whatever the order, attestations never are, and an error tells what there is.
func TestPickPlatform(t *testing.T) {
	entry := func(platform string) Descriptor {
		d := describeBytes([]byte(platform))
		if platform != "" {
			p, err := v1.ParsePlatform(platform)
			if err != nil {
				t.Fatal(err)
			}
			d.Platform = p
		}
		return d
	}
	attestation := entry("linux/amd64")
	attestation.Annotations = map[string]string{attestationKey: "attestation-manifest"}
	index := func(ds ...Descriptor) *v1.IndexManifest { return &v1.IndexManifest{Manifests: ds} }
	for _, tt := range []struct {
		name  string
		index *v1.IndexManifest
		want  string
		got   string // the platform of the entry
		err   string
	}{
		{"exact", index(entry("linux/arm64"), entry("linux/amd64")), "linux/amd64", "linux/amd64", ""},
		{"arm64 is v8", index(entry("linux/arm64/v8"), entry("linux/amd64")), "linux/arm64", "linux/arm64/v8", ""},
		{"older variant", index(entry("linux/arm/v5"), entry("linux/arm/v6")), "linux/arm/v7", "linux/arm/v6", ""},
		{"same variant last", index(entry("linux/arm/v6"), entry("linux/arm/v7")), "linux/arm/v7", "linux/arm/v7", ""},
		{"newer variant", index(entry("linux/arm/v7")), "linux/arm/v6", "", "no image for platform linux/arm/v6, only for linux/arm/v7"},
		{"attestation", index(attestation, entry("unknown/unknown"), entry("linux/amd64")), "linux/amd64", "linux/amd64", ""},
		{"only attestations", index(attestation, entry("unknown/unknown")), "linux/amd64", "", "only for no platforms"},
		{"no platform", index(entry("")), "linux/s390x", "", ""},
		{"two without", index(entry(""), entry("")), "linux/s390x", "", "only for no platforms"},
		{"another's", index(entry("linux/amd64"), entry("linux/amd64"), entry("linux/386")), "linux/s390x", "", "only for linux/386, linux/amd64"},
		{"empty", index(), "linux/amd64", "", "only for no platforms at all"},
	} {
		p, err := v1.ParsePlatform(tt.want)
		if err != nil {
			t.Fatal(err)
		}
		d, err := PickPlatform(tt.index, *p)
		if tt.err != "" {
			var pe *PlatformError
			if !errors.As(err, &pe) || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got error %v, want %q", tt.name, err, tt.err)
			}
			continue
		}
		if err != nil || d.Digest != entry(tt.got).Digest {
			t.Errorf("%s: got %+v, %v; want %s", tt.name, d, err, tt.got)
		}
	}
}

// A document that decodes has only valid digests and sizes, is one thing, and decodes the same as the type it got.
func FuzzDecode(f *testing.F) {
	f.Add(ociImage, []byte(`{"schemaVersion":2,"config":`+descJSON("c")+`,"layers":[`+descJSON("l")+`]}`))
	f.Add(ociIndex, []byte(`{"manifests":[`+descJSON(ociImage)+`]}`))
	f.Add("", []byte(`{"manifests":null}`))
	f.Add(dockerList, []byte(`{"mediaType":5}`))
	f.Add(ociImage, []byte(`{"config":null,"layers":[null]}`))
	f.Fuzz(func(t *testing.T, said string, b []byte) {
		doc, err := Decode(said, b)
		if err != nil {
			return
		}
		var all []Descriptor
		if doc.Image != nil {
			all = append(append(all, doc.Image.Config), doc.Image.Layers...)
		}
		if doc.Index != nil {
			all = append(all, doc.Index.Manifests...)
			_, _ = PickPlatform(doc.Index, v1.Platform{OS: "linux", Architecture: "amd64"})
		}
		for _, d := range all {
			if checkDescriptor(d) != nil {
				t.Errorf("%s has %+v", b, d)
			}
		}
		if (doc.Image == nil) == (doc.Index == nil) || !json.Valid(b) {
			t.Errorf("%s decodes to %+v", b, doc)
		}
		if again, err := Decode(string(doc.MediaType), b); err != nil || again.MediaType != doc.MediaType {
			t.Errorf("%s is %s, and then %v, %v", b, doc.MediaType, again, err)
		}
	})
}
