package builder

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/containerd/platforms"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver/op"
)

// The documents that annotations are for, as BuildKit's attributes name them.
const (
	toManifest           = "manifest"
	toManifestDescriptor = "manifest-descriptor"
	toIndex              = "index"
	toIndexDescriptor    = "index-descriptor"
)

// An annotation is one that an output was asked to write, or that a frontend has made.
type annotation struct {
	to       string
	platform string // normalised; "" for all
	key      string
	value    string
}

// annotationKey is BuildKit's form: "annotation-manifest[linux/amd64].org.opencontainers.image.title".
var annotationKey = regexp.MustCompile(`^annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/-]+)\])?\.(\S+)$`)

// parseAnnotation reads an attribute that is an annotation; ok is false for another.
func parseAnnotation(attr, value string) (a annotation, ok bool, err error) {
	m := annotationKey.FindStringSubmatch(attr)
	if m == nil {
		return a, false, nil
	}
	a = annotation{to: m[1], key: m[3], value: value}
	switch a.to {
	case "":
		a.to = toManifest
	case toManifest, toManifestDescriptor, toIndex, toIndexDescriptor:
	default:
		return a, true, fmt.Errorf("unrecognized annotation type %s", a.to)
	}
	if m[2] != "" {
		p, err := platforms.Parse(m[2])
		if err != nil {
			return a, true, fmt.Errorf("annotation %s: %w", attr, err)
		}
		a.platform = platforms.FormatAll(platforms.Normalize(p))
	}
	return a, true, nil
}

// annotateAsSaid adds the annotations that a frontend has among the metadata of its result to all outputs of images. Where one
// that the output was asked to write is the same but for its value, the frontend's counts, as with BuildKit.
func annotateAsSaid(plans []plan, out *frontend.Output) error {
	var said []annotation
	for _, k := range slices.Sorted(maps.Keys(out.Metadata)) {
		a, ok, err := parseAnnotation(k, string(out.Metadata[k]))
		if err != nil {
			return fmt.Errorf("reading the frontend's annotations: %w", err)
		}
		if ok {
			said = append(said, a)
		}
	}
	for i := range plans {
		if p := &plans[i]; kind(p.Type)&onAny != 0 {
			p.annotations = slices.Concat(p.annotations, said)
		}
	}
	return nil
}

// annotate puts annotations where they belong. One for a platform goes before one for all; one for a platform that is not
// among several is an error, while a single image passes over what is for others, as it does in BuildKit: a request that is
// made of one template for each platform has annotations for all.
func annotate(img *exporter.Image, list []annotation) error {
	names := make(map[string]bool)
	for i := range img.Manifests {
		names[platformID(img.Manifests[i].Platform)] = true
	}
	for _, a := range list {
		if a.platform != "" && !names[a.platform] && len(img.Manifests) > 1 {
			return fmt.Errorf("invalid annotation: no platform %s found in source", a.platform)
		}
		switch a.to {
		case toIndex:
			img.Annotations = with(img.Annotations, a)
		case toIndexDescriptor:
			img.DescriptorAnnotations = with(img.DescriptorAnnotations, a)
		}
	}
	for i := range img.Manifests {
		m := &img.Manifests[i]
		for _, platform := range []string{"", platformID(m.Platform)} {
			for _, a := range list {
				switch {
				case a.platform != platform:
				case a.to == toManifest:
					m.Annotations = with(m.Annotations, a)
				case a.to == toManifestDescriptor:
					m.DescriptorAnnotations = with(m.DescriptorAnnotations, a)
				}
			}
		}
	}
	return nil
}

// annotatesIndex says whether any of the annotations is for an index, or for what points to it.
func annotatesIndex(list []annotation) bool {
	return slices.ContainsFunc(list, func(a annotation) bool { return a.to == toIndex || a.to == toIndexDescriptor })
}

func platformID(p op.Platform) string { return platforms.FormatAll(platforms.Normalize(p)) }

func with(m map[string]string, a annotation) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = make(map[string]string)
	}
	m[a.key] = a.value
	return m
}
