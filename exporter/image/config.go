// Package image assembles the documents of an image: configs, manifests and indexes, with OCI's or Docker's media types.
//
// Its functions are pure: equal input gives equal bytes, whatever the clock says, so that the digest of an image depends
// on what is in it alone. Config writes what BuildKit writes for the same build, so that tools which read histories see
// nothing new. Assemble puts the parts of an exporter.Manifest together, asking its layers for blobs.
package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Layer is what Config has to know of a layer.
type Layer struct {
	DiffID digest.Digest
	// Created is when the layer was made; nil if that is not known. CreatedBy is for layers that the history lacks.
	Created   *time.Time
	CreatedBy string
}

// A Draft is a config that lacks what only the layers say.
type Draft struct {
	// JSON is the config as a frontend wrote it. Fields that are not known here are kept. Its rootfs is replaced, its
	// history is completed.
	JSON   []byte
	Layers []Layer // lowest first, the base image's included
	// Base is the history of the image that it starts from; nil for none.
	Base []ocispec.History
	// Epoch, if not nil, is the latest time that is written, except into the history of Base.
	Epoch *time.Time
	// InlineCache are the cache records to store in the config; nil for none.
	InlineCache []byte
}

// cacheField is where BuildKit looks for inline cache records.
const cacheField = "moby.buildkit.cache.v0"

// comment marks history that had to be made up.
const comment = "boxbuild.exporter.image.v0"

// Config returns the final config. Its members are sorted by name, and those of "config" stay in the frontend's order.
//
// The history has one entry for each layer that is not marked empty; entries that lack a time get that of the first new
// layer, or of the last one with a time before them.
func Config(d Draft) ([]byte, error) {
	var img ocispec.Image
	if err := json.Unmarshal(d.JSON, &img); err != nil {
		return nil, fmt.Errorf("assembling image config: %w", err)
	}
	fields := make(map[string]json.RawMessage)
	if err := json.Unmarshal(d.JSON, &fields); err != nil || fields == nil {
		return nil, errors.Join(errors.New("assembling image config: it is no object"), err)
	}
	if img.OS == "" || img.Architecture == "" {
		return nil, errors.New("assembling image config: os and architecture are missing")
	}
	rootFS := ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, l := range d.Layers {
		rootFS.DiffIDs = append(rootFS.DiffIDs, l.DiffID)
	}
	history := History(img.History, d.Layers)
	if d.Epoch != nil {
		clampHistory(history, d.Base, *d.Epoch)
	}
	set := map[string]any{"rootfs": rootFS, "history": history}
	switch {
	case img.Created == nil:
		set["created"] = lastTime(history)
	case d.Epoch != nil && img.Created.After(*d.Epoch):
		set["created"] = d.Epoch
	}
	if d.InlineCache != nil {
		set[cacheField] = d.InlineCache
	}
	for name, v := range set {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("assembling image config: %s: %w", name, err)
		}
		fields[name] = b
	}
	b, err := json.Marshal(fields) // a map's keys are sorted
	if err != nil {
		return nil, fmt.Errorf("assembling image config: %w", err)
	}
	return b, nil
}

func lastTime(history []ocispec.History) *time.Time {
	for i := len(history) - 1; i >= 0; i-- {
		if history[i].Created != nil {
			return history[i].Created
		}
	}
	return nil
}

// History returns history with one entry for each layer that is not marked empty, and with a time in each entry if there is
// any.
func History(history []ocispec.History, layers []Layer) []ocispec.History {
	out := make([]ocispec.History, 0, len(history)+len(layers))
	n := 0 // layers that have an entry
	for _, h := range history {
		if n == len(layers) {
			h.EmptyLayer = true // a wrong base image: more entries than layers
		}
		if !h.EmptyLayer {
			if h.Created == nil {
				h.Created = layers[n].Created
			}
			n++
		}
		out = append(out, h)
	}
	for _, l := range layers[n:] {
		out = append(out, ocispec.History{Created: l.Created, CreatedBy: l.CreatedBy, Comment: comment})
	}
	fillTimes(out)
	return out
}

// fillTimes gives the entries without a time one. Entries of an instruction that makes no layer have none; the time of
// the first new layer after the base image's is the right one for those before it, and the time of the layer before for
// the others.
func fillTimes(history []ocispec.History) {
	var created *time.Time
	missing := false
	for _, h := range history {
		if h.Created == nil {
			missing = true
			continue
		}
		created = h.Created
		if missing {
			break
		}
	}
	missing = false
	for i := range history {
		switch {
		case history[i].Created == nil:
			missing = true
			history[i].Created = created
		case missing:
			created = history[i].Created
		}
	}
}

// clampHistory makes no entry later than epoch, except those that are the base image's.
func clampHistory(history, base []ocispec.History, epoch time.Time) {
	ours := false
	for i := range history {
		if !ours && i < len(base) && reflect.DeepEqual(history[i], base[i]) {
			continue
		}
		ours = true
		if c := history[i].Created; c == nil || c.After(epoch) {
			history[i].Created = &epoch
		}
	}
}
