package buildkit

import (
	"fmt"
	"slices"

	"github.com/moby/buildkit/solver/errdefs"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// The versions of behaviour that a client may ask for, by BuildKit's numbers. Each is of the release that it is named after;
// what a client does not say is the last.
const (
	compatible013 = 10
	compatible015 = 20
	compatible031 = 30
)

var compatible = []int64{compatible013, compatible015, compatible031}

// version is the version of behaviour that is asked for.
func (b *build) version() int64 {
	if v := b.in.GetCompatibilityVersion(); v != 0 {
		return v
	}
	return compatible031
}

// checkVersion refuses a version that there is not.
func (b *build) checkVersion() error {
	switch v := b.version(); {
	case slices.Contains(compatible, v):
		return nil
	case v > compatible031:
		return &frontend.UsageError{Message: fmt.Sprintf(
			"unsupported compatibility-version %d: upgrade boxbuildd (max supported: %d)", v, compatible031)}
	default:
		return &frontend.UsageError{Message: fmt.Sprintf("unsupported compatibility-version %d (supported: %v)", v, compatible)}
	}
}

// older makes an output what it was in the version that is asked for: manifests had docker's media types, and before zstd
// was known to exporters it was refused.
func (b *build) older(o *worker.Output) error {
	v := b.version()
	switch o.Type {
	case worker.OutputImage, worker.OutputDocker:
		if _, set := o.Attrs["oci-mediatypes"]; !set && v < compatible031 {
			o.Attrs["oci-mediatypes"] = "false"
		}
	case worker.OutputOCI:
	case worker.OutputLocal, worker.OutputTar, worker.OutputNone:
		return nil
	}
	if v == compatible013 && o.Attrs["compression"] == "zstd" {
		return errdefs.NewUnsupportedCompatibilityFeatureError(int(v), fmt.Sprintf("%s exporter compression=zstd", o.Type))
	}
	return nil
}

// newer warns of what is not as it was in the version that is asked for.
func (b *build) newer(req *worker.BuildRequest) {
	if b.version() != compatible013 {
		return
	}
	req.Warnings = append(req.Warnings, solver.Warning{
		Short:  fmt.Sprintf("compatibility-version %d: files of Git sources have the modes that later versions give them", compatible013),
		Detail: []string{"Those that are not executable could be written by everybody then; a build that copies such files has another digest."},
	})
}
