package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	apiregistry "github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// distribution says what a registry has under a name.
func (s *Server) distribution(ctx context.Context, c *call) error {
	named, err := reference.ParseDockerRef(c.vars[0])
	if err != nil {
		return worker.Invalidf("%v", err)
	}
	if s.opt.Registry == nil {
		return missing("this daemon asks no registries")
	}
	if auth := authHeader(c, reference.Domain(named)); auth != nil {
		ctx = registry.WithKeychain(ctx, registry.StaticKeychain(reference.Domain(named), *auth))
	}
	ref, err := registry.ParseRef(named.String())
	if err != nil {
		return worker.Invalidf("%v", err)
	}
	desc, raw, err := s.opt.Registry.Get(ctx, ref)
	if err != nil {
		return pullError(named, err)
	}
	doc, err := registry.Decode(string(desc.MediaType), raw)
	if err != nil {
		return err
	}
	out := apiregistry.DistributionInspect{Descriptor: registry.ToOCI(desc), Platforms: []ocispec.Platform{}}
	if doc.Index != nil {
		for _, m := range doc.Index.Manifests {
			if m.Platform == nil || m.Platform.OS == "unknown" && m.Platform.Architecture == "unknown" {
				continue // what is about an image, and no image
			}
			out.Platforms = append(out.Platforms, *registry.ToOCI(m).Platform)
		}
		return c.send(http.StatusOK, out)
	}
	config, err := s.opt.Registry.ReadBlob(ctx, ref.Repo, doc.Image.Config, registry.MaxManifest)
	if err != nil {
		return err
	}
	var p ocispec.Platform
	if json.Unmarshal(config, &p) == nil && (p.OS != "" || p.Architecture != "") {
		out.Platforms = append(out.Platforms, p)
	}
	return c.send(http.StatusOK, out)
}

// searchImages is docker search.
func (s *Server) searchImages(ctx context.Context, c *call) error {
	term := c.get("term")
	limit, err := c.number("limit")
	switch {
	case err != nil || limit < 0 || limit > 100:
		return worker.Invalidf("limit %s is outside the range of [1, 100]", c.get("limit"))
	case strings.TrimSpace(term) == "":
		return worker.Invalidf("the term to search for is empty")
	}
	filters, err := c.filters()
	if err != nil {
		return err
	}
	if err := filters.Check("is-automated", "is-official", "stars"); err != nil {
		return err
	}
	match, err := searchMatcher(filters)
	if err != nil {
		return err
	}
	if s.opt.Search == nil {
		return missing("this daemon searches no registries")
	}
	host, rest, ok := strings.Cut(term, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, rest = "docker.io", term
	}
	if auth := authHeader(c, host); auth != nil {
		ctx = registry.WithKeychain(ctx, registry.StaticKeychain(host, *auth))
	}
	found, err := s.opt.Search(ctx, host, rest, cmp.Or(int(limit), 25))
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return missing("registry " + host + " offers no search")
	case err != nil:
		return err
	}
	out := []apiregistry.SearchResult{}
	for _, f := range found {
		r := apiregistry.SearchResult{Name: f.Name, Description: f.Description, StarCount: f.Stars, IsOfficial: f.Official}
		if host != "docker.io" {
			r.Name = host + "/" + f.Name // by which it can be pulled
		}
		if match(&r) {
			out = append(out, r)
		}
	}
	return c.send(http.StatusOK, out)
}

func searchMatcher(f worker.Filters) (func(*apiregistry.SearchResult) bool, error) {
	official, err := f.Bool("is-official", false)
	if err != nil {
		return nil, err
	}
	automated, err := f.Bool("is-automated", false)
	if err != nil {
		return nil, err
	}
	stars := 0
	for _, v := range f["stars"] {
		n, err := parseCount(v)
		if err != nil {
			return nil, worker.Invalidf("invalid filter 'stars=%s'", v)
		}
		stars = max(stars, n)
	}
	return func(r *apiregistry.SearchResult) bool {
		return (len(f["is-official"]) == 0 || r.IsOfficial == official) && r.StarCount >= stars &&
			!automated // there are no automated ones any more
	}, nil
}

// statements is what Images have that can show what is attested of an image.
type statements interface {
	// Attestations returns the in-toto statements about the image for p, nil for the daemon's own platform, with their
	// bodies if bodies is set.
	Attestations(ctx context.Context, ref string, p *op.Platform, bodies bool) ([]image.AttestationStatement, error)
}

// attestations lists what is attested of an image.
func (s *Server) attestations(ctx context.Context, c *call) error {
	if c.before(55) {
		return errNoPage
	}
	platform, err := c.platform()
	if err != nil {
		return err
	}
	if _, err := s.opt.Images.Inspect(ctx, c.vars[0], platform); err != nil {
		return noImage(c.vars[0], err)
	}
	out := []image.AttestationStatement{}
	images, ok := s.opt.Images.(statements)
	if !ok {
		return c.send(http.StatusOK, out)
	}
	all, err := images.Attestations(ctx, c.vars[0], platform, c.is("statement"))
	if err != nil {
		return noImage(c.vars[0], err)
	}
	kinds := worker.Filters{"type": c.form["type"]}
	for _, a := range all {
		if kinds.Match("type", a.PredicateType) {
			out = append(out, a)
		}
	}
	return c.send(http.StatusOK, out)
}
