package builder

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/boxbuild/boxbuild/exporter"
	"github.com/boxbuild/boxbuild/snapshot/image"
	"github.com/boxbuild/boxbuild/worker"
)

// A clock is what an output says about times: nothing, or SOURCE_DATE_EPOCH in place of the build's, which may be none.
type clock struct {
	set   bool
	epoch *time.Time
}

// of returns what counts for an image whose build has that epoch.
func (c clock) of(build *time.Time) *time.Time {
	if c.set {
		return c.epoch
	}
	return build
}

// The kinds of outputs that have an attribute.
const (
	onImage   = 1 << iota // an image in the store or a registry
	onArchive             // docker, oci
	onFiles               // local, tar
	onAny     = onImage | onArchive
)

// kind returns the bits of an output's type.
func kind(t worker.OutputType) int {
	switch t {
	case worker.OutputImage:
		return onImage
	case worker.OutputDocker, worker.OutputOCI:
		return onArchive
	case worker.OutputLocal, worker.OutputTar:
		return onFiles
	case worker.OutputNone:
	}
	return 0
}

// An attribute is one that BuildKit's exporters know.
type attribute struct {
	on   int
	read func(p *plan, value string) error
}

// attributes are by name. Those with an empty read are without effect here.
var attributes = map[string]attribute{
	"type": {^0, nil},
	"dest": {^0, nil},

	"name":                    {onAny, (*plan).readNames},
	"push":                    {onImage, boolean("push", func(p *plan) *bool { return &p.Push })},
	"push-by-digest":          {onImage, boolean("push-by-digest", func(p *plan) *bool { return &p.byDigest })},
	"store":                   {onImage, boolean("store", func(p *plan) *bool { return &p.store })},
	"unpack":                  {onImage, boolean("unpack", func(*plan) *bool { return new(bool) })},
	"name-canonical":          {onImage, boolean("name-canonical", func(*plan) *bool { return new(bool) })},
	"dangling-name-prefix":    {onImage, func(p *plan, v string) error { p.dangling = v; return nil }},
	"danging-name-empty-only": {onImage, boolean("danging-name-empty-only", func(p *plan) *bool { return &p.danglingEmptyOnly })},
	"registry.insecure":       {onImage, boolean("registry.insecure", func(p *plan) *bool { return &p.insecure })},
	"tar":                     {onArchive, boolean("tar", func(p *plan) *bool { return &p.tar })},
	"compression":             {onAny, (*plan).readCompression},
	"compression-level":       {onAny, (*plan).readLevel},
	"force-compression":       {onAny, boolean("force-compression", func(p *plan) *bool { return &p.form.Force })},
	"oci-mediatypes":          {onAny, boolean("oci-mediatypes", func(p *plan) *bool { return &p.ociTypes })},
	"oci-artifact":            {onAny, boolean("oci-artifact", func(p *plan) *bool { return &p.ociArtifact })},
	"attestation-inline":      {onAny, boolean("attestation-inline", func(*plan) *bool { return new(bool) })},
	"prefer-nondist-layers":   {onAny, boolean("prefer-nondist-layers", func(p *plan) *bool { return &p.form.Nondist })},
	"rewrite-timestamp":       {onAny, boolean("rewrite-timestamp", func(p *plan) *bool { return &p.rewrite })},
	"source-date-epoch":       {onAny | onFiles, (*plan).readEpoch},
	"platform-split":          {onFiles, (*plan).readSplit},
	"attestation-prefix":      {onFiles, func(*plan, string) error { return nil }},
	"mode":                    {onFiles, (*plan).readMode},
	"buildinfo":               {onAny, func(*plan, string) error { return nil }}, // gone from BuildKit too, and still in scripts
	"buildinfo-attrs":         {onAny, func(*plan, string) error { return nil }},
}

// KnowsAttribute says whether an output of type t may have an attribute. Its value may still be wrong.
func KnowsAttribute(t worker.OutputType, key string) bool {
	_, ok, err := parseAnnotation(key, "")
	if kind(t)&onAny != 0 && (ok || err != nil) {
		return true
	}
	a, ok := attributes[key]
	return ok && (a.on&kind(t) != 0 || a.on == ^0)
}

// attr reads one attribute.
func (p *plan) attr(key, value string) error {
	if a, ok, err := parseAnnotation(key, value); ok || err != nil {
		if kind(p.Type)&onAny == 0 && err == nil {
			return fmt.Errorf("unknown attribute %q", key)
		}
		p.annotations = append(p.annotations, a)
		return err
	}
	a, ok := attributes[key]
	if !ok || a.on&kind(p.Type) == 0 && a.on != ^0 {
		return fmt.Errorf("unknown attribute %q", key)
	}
	if a.read == nil {
		return nil
	}
	return a.read(p, value)
}

// boolean reads an attribute that is true without a value.
func boolean(key string, field func(p *plan) *bool) func(*plan, string) error {
	return func(p *plan, value string) error {
		to := field(p)
		if *to = true; value == "" {
			return nil
		}
		b, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%s=%s: neither true nor false", key, value)
		}
		*to = b
		return nil
	}
}

func (p *plan) readNames(value string) error {
	if value == "*" {
		p.asSaid = true
		return nil
	}
	for name := range strings.SplitSeq(value, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		n, err := image.Normalize(name)
		if err != nil {
			return err
		}
		p.noteTag(name)
		if !slices.Contains(p.names, n) {
			p.names = append(slices.Clone(p.names), n)
		}
	}
	return nil
}

func (p *plan) readCompression(value string) error {
	c, ok := map[string]exporter.Compression{
		"gzip": exporter.Gzip, "uncompressed": exporter.Uncompressed, "zstd": exporter.Zstd,
	}[value]
	if !ok {
		return fmt.Errorf("compression %q is none of gzip, zstd and uncompressed", value)
	}
	p.form.Compression = c
	return nil
}

func (p *plan) readLevel(value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 || n > 22 {
		return fmt.Errorf("compression-level %q is not a number from 0 to 22", value)
	}
	p.form.Level = n
	return nil
}

// readEpoch reads seconds since 1970; without a value the times stay.
func (p *plan) readEpoch(value string) error {
	p.clock = clock{set: true}
	if value == "" {
		return nil
	}
	sec, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return fmt.Errorf("invalid source-date-epoch: %s", value)
	}
	t := time.Unix(sec, 0).UTC()
	p.clock.epoch = &t
	return nil
}

func (p *plan) readSplit(value string) error {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return fmt.Errorf("platform-split=%s: neither true nor false", value)
	}
	p.split = &b
	return nil
}

func (p *plan) readMode(value string) error {
	switch value {
	case "copy":
		return nil
	case "delete":
		if p.Dest.Files != nil { // the client has been told of everything, and deletes the rest
			return nil
		}
		return errors.New("mode=delete is not supported: what is in a directory stays")
	}
	return fmt.Errorf("mode %q is none of copy and delete", value)
}
