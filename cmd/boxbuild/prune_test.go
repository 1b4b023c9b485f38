package main

import (
	"slices"
	"testing"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// The filters of labels reach the daemon in the form that it reads: what is to be kept must not be what is deleted.
func TestPruneLabels(t *testing.T) {
	o := &pruneOptions{request: new(boxbuildv1.PruneRequest), filters: []string{"label=a", "label=b=c=d", "label!=e", "label!=f=g"}}
	want := []string{"a", "b=c=d", "e!", "f!=g"}
	if err := o.parse(); err != nil || !slices.Equal(o.request.GetLabels(), want) {
		t.Errorf("got %q, %v, want %q", o.request.GetLabels(), err, want)
	}
}
