package main

import (
	"maps"
	"testing"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// --annotation takes buildx's forms, and its errors are buildx's.
func TestAnnotations(t *testing.T) {
	for _, tt := range []struct {
		flag string
		want map[string]string
		err  string
	}{
		{"a=b", map[string]string{"annotation.a": "b"}, ""},
		{"a=b=c", map[string]string{"annotation.a": "b=c"}, ""},
		{"index:a=b:c", map[string]string{"annotation-index.a": "b:c"}, ""},
		{
			"index,manifest-descriptor[linux/arm64]:a=b",
			map[string]string{"annotation-index.a": "b", "annotation-manifest-descriptor[linux/arm64].a": "b"},
			"",
		},
		{"a", nil, `invalid annotation "a", expected key=value`},
		{"tar:a=b", nil, `unknown annotation type "tar"`},
		{"index[:a=b", nil, `invalid annotation type "index[", expected type and optional platform in square brackets`},
	} {
		got, err := annotations([]string{tt.flag})
		if msg := ""; err != nil {
			if msg = err.Error(); msg != tt.err {
				t.Errorf("%s: error %q, want %q", tt.flag, msg, tt.err)
			}
			continue
		}
		if tt.err != "" || !maps.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v %s", tt.flag, got, tt.want, tt.err)
		}
	}
}

// Only images are annotated, and what an output says itself stays.
func TestAnnotate(t *testing.T) {
	outs := []*boxbuildv1.Output{
		{Type: "image"}, {Type: "local"}, {Type: "oci", Attrs: map[string]string{"annotation.a": "own", "tar": "false"}},
	}
	if err := annotate(outs, []string{"a=b"}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []map[string]string{{"annotation.a": "b"}, {}, {"annotation.a": "own", "tar": "false"}} {
		if !maps.Equal(outs[i].GetAttrs(), want) {
			t.Errorf("%s: %v, want %v", outs[i].GetType(), outs[i].GetAttrs(), want)
		}
	}
}
