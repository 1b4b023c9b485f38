package builder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/distribution/reference"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/worker"
)

// A plan is an output with its attributes read: everything that can be wrong with a request is found before the build.
type plan struct {
	worker.Output
	names  []string // canonical
	asSaid bool     // the names are the frontend's to say
	said   string   // the names that it has said, if no others were asked for
	tagged string   // one of the names that was written with a tag or a digest; empty if none was
	form   exporter.Form
	tar    bool // of an OCI layout: as one file

	annotations []annotation
	clock       clock
	rewrite     bool // files in new layers get no time after the epoch
	split       *bool
	ociTypes    bool
	ociArtifact bool

	store, byDigest   bool
	insecure          bool   // the registry that it is pushed to need not prove who it is, nor speak TLS
	dangling          string // the name, but for the digest, that the image gets too
	danglingEmptyOnly bool
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
		p := plan{Output: o, names: tags, tar: true, store: true, ociTypes: true}
		for _, t := range req.Tags {
			p.noteTag(t)
		}
		if err := p.read(); err != nil {
			return nil, &frontend.UsageError{Message: fmt.Sprintf("output %s: %v", o.Type, err)}
		}
		plans = append(plans, p)
	}
	return plans, nil
}

// more adds to the plans those of outputs that the client chooses now.
func (b *Builder) more(ctx context.Context, req *worker.BuildRequest, out *frontend.Output, plans []plan, em *emitter) ([]plan, error) {
	if req.More == nil {
		return plans, nil
	}
	outputs, warnings, err := req.More(ctx, out.Metadata)
	em.remark(stepChosen, warnings)
	if err != nil || len(outputs) == 0 {
		return plans, err
	}
	chosen, err := b.plan(&worker.BuildRequest{Outputs: outputs, Tags: req.Tags})
	return append(plans, chosen...), err
}

// metaSaid is where a frontend says which names its image has.
const metaSaid = "image.name"

// nameAsSaid gives the names that a frontend has said to the outputs that ask for these, which "name=*" does.
func nameAsSaid(plans []plan, out *frontend.Output) error {
	for i := range plans {
		p := &plans[i]
		if !p.asSaid {
			continue
		}
		said := string(out.Metadata[metaSaid])
		if said == "" {
			return &frontend.UsageError{Message: fmt.Sprintf("output %s: name=* asks for the frontend's name of the image, and it has none", p.Type)}
		}
		if len(p.names) == 0 {
			p.said = said
		}
		if err := p.readNames(said); err != nil {
			return &frontend.UsageError{Message: fmt.Sprintf("output %s: the frontend's name of the image: %v", p.Type, err)}
		}
	}
	return nil
}

// noteTag notes that a name was written with a tag.
func (p *plan) noteTag(name string) {
	if ref, err := reference.ParseNormalizedNamed(name); err == nil && !reference.IsNameOnly(ref) {
		p.tagged = name
	}
}

// read checks the output's type and destination, and reads its attributes.
func (p *plan) read() error {
	hasDest := p.Dest.Dir != "" || p.Dest.Stream != nil || p.Dest.Files != nil && p.Type == worker.OutputLocal ||
		p.Dest.Blob != nil && (p.Type == worker.OutputOCI || p.Type == worker.OutputDocker)
	switch p.Type {
	case worker.OutputImage, worker.OutputNone:
		if hasDest {
			return errors.New("it has no destination")
		}
	case worker.OutputDocker, worker.OutputOCI, worker.OutputLocal, worker.OutputTar:
		if !hasDest {
			return errors.New("no destination is given (dest=)")
		}
	default:
		return errors.New("unknown type")
	}
	for _, k := range slices.Sorted(maps.Keys(p.Attrs)) {
		if err := p.attr(k, p.Attrs[k]); err != nil {
			return err
		}
	}
	p.form.Docker = !p.ociTypes
	return p.conflicts()
}

// conflicts finds attributes that contradict each other; the texts are BuildKit's where it has one.
func (p *plan) conflicts() error {
	switch {
	case p.ociArtifact && !p.ociTypes:
		return errors.New(`exporter option "oci-artifact=true" conflicts with "oci-mediatypes=false"`)
	case p.Push && p.Type != worker.OutputImage:
		return errors.New("only an image can be pushed")
	case p.Push && len(p.names) == 0 && !p.asSaid:
		return errors.New("a tag is needed when pushing to a registry")
	case p.Push && p.byDigest && p.tagged != "":
		return fmt.Errorf("can't push tagged ref %s by digest", p.tagged)
	}
	return nil
}

// documented says whether the output says something about an image's documents that its record cannot keep.
func (p *plan) documented() bool {
	return p.Documented || len(p.annotations) > 0 || p.form != exporter.Form{}
}
