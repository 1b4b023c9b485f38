package builder

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/exporter"
)

// A rewrittenLayer is one that was written again with no times after an epoch, also if it had none: who reads the manifest
// is told so, in BuildKit's words. It has the compression that is asked for, since there is no blob yet that would do.
type rewrittenLayer struct {
	exporter.Layer
	epoch time.Time
}

// Blob implements exporter.Layer.
func (l rewrittenLayer) Blob(ctx context.Context, form exporter.Form) (exporter.Descriptor, error) {
	form.Force = true
	desc, err := l.Layer.Blob(ctx, form)
	desc.Annotations = maps.Clone(desc.Annotations)
	if desc.Annotations == nil {
		desc.Annotations = make(map[string]string)
	}
	desc.Annotations[exporter.Rewritten] = strconv.FormatInt(l.epoch.Unix(), 10)
	return desc, err
}

// markRewritten has the manifest of img say which of its layers were rewritten for an output that wants that, and of no
// other. One that there is already may say otherwise of the same image: whether files were rewritten that were old enough
// makes no other image.
func markRewritten(m *exporter.Manifest, img *built, rewrite bool) {
	if !rewrite || img.epoch == nil {
		if m.Raw != nil && saysRewritten(m.Raw.Bytes, img.base) {
			m.Raw = nil
		}
		return
	}
	for i := img.base; i < len(m.Layers); i++ {
		m.Raw = nil
		m.Layers[i] = rewrittenLayer{m.Layers[i], *img.epoch}
	}
}

// saysForeign says whether a manifest has layers that are not to be pushed.
func saysForeign(manifest []byte) bool {
	var m ocispec.Manifest
	if json.Unmarshal(manifest, &m) != nil {
		return false
	}
	return slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool { return exporter.Nondistributable(l.MediaType) })
}

// saysRewritten says whether a manifest calls a layer beyond the base image's rewritten.
func saysRewritten(manifest []byte, base int) bool {
	var m ocispec.Manifest
	if json.Unmarshal(manifest, &m) != nil {
		return false // which whoever uses it says
	}
	for i, l := range m.Layers {
		if _, ok := l.Annotations[exporter.Rewritten]; ok && i >= base {
			return true
		}
	}
	return false
}
