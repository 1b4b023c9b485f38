package main

import (
	"regexp"
	"slices"
	"strings"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// annotationType is what an annotation is for, with a platform or without: "manifest[linux/amd64]".
var annotationType = regexp.MustCompile(`^([a-z-]+)(\[[A-Za-z0-9_/-]+\])?$`)

// annotationTypes are the documents that can be annotated.
var annotationTypes = []string{"index", "index-descriptor", "manifest", "manifest-descriptor"}

// annotations reads --annotation, "[type[platform],…:]key=value", as attributes of outputs.
func annotations(flags []string) (map[string]string, error) {
	out := map[string]string{}
	for _, f := range flags {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return nil, usagef("invalid annotation %q, expected key=value", f)
		}
		types, key, ok := strings.Cut(k, ":")
		if !ok {
			out["annotation."+k] = v
			continue
		}
		for t := range strings.SplitSeq(types, ",") {
			m := annotationType.FindStringSubmatch(t)
			if m == nil {
				return nil, usagef("invalid annotation type %q, expected type and optional platform in square brackets", t)
			}
			if !slices.Contains(annotationTypes, m[1]) {
				return nil, usagef("unknown annotation type %q", m[1])
			}
			out["annotation-"+m[1]+m[2]+"."+key] = v
		}
	}
	return out, nil
}

// annotate adds annotations to the outputs that are images. What an output says itself goes before them.
func annotate(outputs []*boxbuildv1.Output, flags []string) error {
	attrs, err := annotations(flags)
	if err != nil || len(attrs) == 0 {
		return err
	}
	for _, o := range outputs {
		switch o.GetType() {
		case "image", "oci", "docker":
		default:
			continue
		}
		if o.Attrs == nil {
			o.Attrs = map[string]string{}
		}
		for k, v := range attrs {
			if _, set := o.Attrs[k]; !set {
				o.Attrs[k] = v
			}
		}
	}
	return nil
}
