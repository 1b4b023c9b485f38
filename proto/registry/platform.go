package registry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// attestationKey is the annotation of index entries that say something of an image instead of being one.
const attestationKey = "vnd.docker.reference.type"

// A PlatformError is an index that has no image for a platform.
type PlatformError struct {
	Want v1.Platform
	Have []string // what the index has instead, sorted
}

// Error names the platforms that there are.
func (e *PlatformError) Error() string {
	have := "no platforms at all"
	if len(e.Have) > 0 {
		have = strings.Join(e.Have, ", ")
	}
	return fmt.Sprintf("no match for platform in manifest: there is no image for platform %s, only for %s", e.Want, have)
}

// PickPlatform returns the entry of an index that suits a platform best: the same variant before an older one that the
// platform also runs, an earlier entry before a later one. An entry without a platform is taken if it is the only image.
// The error is a *PlatformError.
func PickPlatform(index *v1.IndexManifest, want v1.Platform) (Descriptor, error) {
	match := platforms.Only(platforms.Normalize(ociPlatform(want)))
	var (
		best      *Descriptor
		unnamed   []*Descriptor
		have      []string
		bestAsOCI = platforms.DefaultSpec()
	)
	for i := range index.Manifests {
		d := &index.Manifests[i]
		if d.Annotations[attestationKey] != "" {
			continue
		}
		if d.Platform == nil || d.Platform.OS == "" && d.Platform.Architecture == "" {
			unnamed = append(unnamed, d)
			continue
		}
		if d.Platform.OS == "unknown" || d.Platform.Architecture == "unknown" {
			continue
		}
		p := platforms.Normalize(ociPlatform(*d.Platform))
		have = append(have, platforms.Format(p))
		if match.Match(p) && (best == nil || match.Less(p, bestAsOCI)) {
			best, bestAsOCI = d, p
		}
	}
	switch {
	case best != nil:
		return *best, nil
	case len(unnamed) == 1 && len(have) == 0:
		return *unnamed[0], nil
	}
	for i, s := range have {
		have[i] = printable(s, 64)
	}
	slices.Sort(have)
	return Descriptor{}, &PlatformError{Want: want, Have: slices.Compact(have)}
}
