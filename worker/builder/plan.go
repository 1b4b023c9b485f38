package builder

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/worker"
)

// A plan is an output with its attributes read: everything that can be wrong with a request is found before the build.
type plan struct {
	worker.Output
	names []string // canonical
	form  exporter.Form
	tar   bool // of an OCI layout: as one file
}

// plan reads the outputs of a request. With none the image goes into the store.
func (b *Builder) plan(req *worker.BuildRequest) ([]plan, error) {
	var tags []string
	for _, t := range req.Tags {
		n, err := image.Normalize(t)
		if err != nil {
			return nil, &frontend.UsageError{Message: fmt.Sprintf("invalid tag %q: %v", t, err)}
		}
		if !slices.Contains(tags, n) {
			tags = append(tags, n)
		}
	}
	outputs := req.Outputs
	if len(outputs) == 0 {
		outputs = []worker.Output{{Type: worker.OutputImage}}
	}
	plans := make([]plan, 0, len(outputs))
	for _, o := range outputs {
		p := plan{Output: o, names: tags, tar: true}
		if err := p.read(); err != nil {
			return nil, &frontend.UsageError{Message: fmt.Sprintf("output %s: %v", o.Type, err)}
		}
		plans = append(plans, p)
	}
	return plans, nil
}

// read checks the output's type and destination, and reads its attributes.
func (p *plan) read() error {
	hasDest := p.Dest.Dir != "" || p.Dest.Stream != nil
	switch p.Type {
	case worker.OutputImage, worker.OutputNone:
		if hasDest {
			return fmt.Errorf("it has no destination")
		}
	case worker.OutputDocker, worker.OutputOCI, worker.OutputLocal, worker.OutputTar:
		if !hasDest {
			return fmt.Errorf("no destination is given (dest=)")
		}
	default:
		return fmt.Errorf("unknown type")
	}
	for k, v := range p.Attrs {
		if err := p.attr(k, v); err != nil {
			return err
		}
	}
	if p.Push {
		if p.Type != worker.OutputImage {
			return fmt.Errorf("only an image can be pushed")
		}
		if len(p.names) == 0 {
			return fmt.Errorf("a tag is needed when pushing to a registry")
		}
	}
	return nil
}

func (p *plan) attr(key, value string) error {
	imageLike := p.Type == worker.OutputImage || p.Type == worker.OutputDocker || p.Type == worker.OutputOCI
	switch key {
	case "type", "dest":
		return nil
	case "name":
		if !imageLike {
			break
		}
		for name := range strings.SplitSeq(value, ",") {
			n, err := image.Normalize(strings.TrimSpace(name))
			if err != nil {
				return err
			}
			if !slices.Contains(p.names, n) {
				p.names = append(slices.Clone(p.names), n)
			}
		}
		return nil
	case "push":
		if p.Type != worker.OutputImage {
			break
		}
		return boolAttr(key, value, &p.Push)
	case "tar":
		if p.Type != worker.OutputOCI && p.Type != worker.OutputDocker {
			break
		}
		return boolAttr(key, value, &p.tar)
	case "compression":
		if !imageLike {
			break
		}
		c, ok := map[string]exporter.Compression{
			"gzip": exporter.Gzip, "uncompressed": exporter.Uncompressed, "zstd": exporter.Zstd,
		}[value]
		if !ok {
			return fmt.Errorf("compression %q is none of gzip, zstd and uncompressed", value)
		}
		p.form.Compression = c
		return nil
	case "compression-level":
		if !imageLike {
			break
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > 22 {
			return fmt.Errorf("compression-level %q is not a number from 0 to 22", value)
		}
		p.form.Level = n
		return nil
	case "force-compression":
		if !imageLike {
			break
		}
		return boolAttr(key, value, &p.form.Force)
	case "oci-mediatypes":
		if !imageLike {
			break
		}
		oci := true
		if err := boolAttr(key, value, &oci); err != nil {
			return err
		}
		p.form.Docker = !oci
		return nil
	}
	return fmt.Errorf("unknown attribute %q", key)
}

func boolAttr(key, value string, to *bool) error {
	if value == "" {
		*to = true
		return nil
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		return fmt.Errorf("%s=%s: neither true nor false", key, value)
	}
	*to = b
	return nil
}
