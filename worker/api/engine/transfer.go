package engine

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/moby/moby/api/types/jsonstream"
	apiregistry "github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/proto/registry"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// createImage is docker pull and docker import.
func (s *Server) createImage(ctx context.Context, c *call) error {
	if c.get("fromImage") == "" {
		return s.importImage(ctx, c)
	}
	named, err := reference.ParseNormalizedNamed(strings.TrimSuffix(c.get("fromImage"), ":"))
	if err != nil {
		return worker.Invalidf("%v", err)
	}
	if tag := c.get("tag"); tag != "" {
		if d, derr := digest.Parse(tag); derr == nil {
			named, err = reference.WithDigest(reference.TrimNamed(named), d)
		} else {
			named, err = reference.WithTag(reference.TrimNamed(named), tag)
		}
		if err != nil {
			return worker.Invalidf("%v", err)
		}
	}
	if reference.FamiliarName(named) == "scratch" {
		return worker.Invalidf("'scratch' is a reserved name")
	}
	opt, err := transferOptions(c, named)
	if err != nil {
		return err
	}
	p := newProgress(c)
	if !reference.IsNameOnly(named) {
		return p.end(s.pull(ctx, p, named, opt))
	}
	tags, err := s.opt.Images.Tags(ctx, named.String(), opt)
	if err != nil {
		return p.end(pullError(named, err))
	}
	for _, tag := range tags {
		one, err := reference.WithTag(named, tag)
		if err == nil {
			err = s.pull(ctx, p, one, opt)
		}
		if err != nil {
			return p.end(err)
		}
	}
	return nil
}

// pull pulls one image.
func (s *Server) pull(ctx context.Context, p *progress, named reference.Named, opt worker.TransferOptions) error {
	begun := false
	begin := func() {
		if !begun {
			begun = true
			p.send(jsonstream.Message{Status: "Pulling from " + reference.Path(named), ID: tagOf(named)})
		}
	}
	opt.Progress = func(st solver.Status) {
		begin()
		p.part(st, pullFirst)
	}
	res, err := s.opt.Images.Pull(ctx, named.String(), opt)
	if err != nil {
		return pullError(named, err)
	}
	begin()
	p.status("Digest: " + res.Digest.String())
	if res.Updated {
		p.status("Status: Downloaded newer image for " + reference.FamiliarString(named))
	} else {
		p.status("Status: Image is up to date for " + reference.FamiliarString(named))
	}
	return nil
}

// tagOf is the tag or the digest of a reference.
func tagOf(named reference.Named) string {
	switch r := named.(type) {
	case reference.Digested:
		return r.Digest().String()
	case reference.Tagged:
		return r.Tag()
	}
	return ""
}

// pullError is why an image cannot be had, in docker's words.
func pullError(named reference.Named, err error) error {
	switch {
	case errors.Is(err, registry.ErrUnauthorized):
		const denied = "repository does not exist or may require 'docker login': "
		why := err.Error()
		if _, rest, said := strings.Cut(why, denied); said { // it says so itself, of the full name
			why = rest
		}
		return worker.NotFoundf("pull access denied for %s, %s%s", reference.FamiliarName(named), denied, why)
	case errors.Is(err, registry.ErrNotFound):
		return worker.NotFoundf("manifest for %s not found: manifest unknown: %v", reference.FamiliarString(named), err)
	}
	return err
}

// loginRefused is why credentials are not good, in docker's words: it tells what the registry itself has answered, or its
// token server, or that there was no answer.
func loginRefused(host string, err error) string {
	var answer *registry.StatusError
	var request *url.Error
	switch {
	case errors.As(err, &answer) && answer.Host == host:
		return fmt.Sprintf("login attempt to %s://%s/v2/ failed with status: %d %s",
			answer.Scheme, host, answer.Status, http.StatusText(answer.Status))
	case errors.As(err, &answer) && errors.Is(err, registry.ErrUnauthorized):
		return fmt.Sprintf("Get \"https://%s/v2/\": unauthorized: %s", host, cmp.Or(answer.Message, "incorrect username or password"))
	case errors.As(err, &request):
		return request.Error()
	}
	return fmt.Sprintf("Get \"https://%s/v2/\": %v", host, err)
}

// transferOptions reads what pulls and pushes have in common.
func transferOptions(c *call, named reference.Named) (worker.TransferOptions, error) {
	var opt worker.TransferOptions
	if auth := authHeader(c, reference.Domain(named)); auth != nil {
		opt.Keychain = registry.StaticKeychain(reference.Domain(named), *auth)
	}
	var err error
	opt.Platform, err = c.platform()
	return opt, err
}

// authHeader reads the credentials of a request for a registry; nil if there are none. As with docker, what cannot be read is
// none; and, other than there, neither is what says that it is for another registry (CVE-2021-41092).
func authHeader(c *call, host string) *authn.AuthConfig {
	value := c.r.Header.Get(apiregistry.AuthHeader)
	var conf apiregistry.AuthConfig
	if value == "" || decodeHeader(value, &conf) != nil {
		return nil
	}
	if conf.ServerAddress != "" && !strings.EqualFold(registryHost(conf.ServerAddress), host) {
		return nil
	}
	auth := credentials(&conf)
	if auth == (authn.AuthConfig{}) {
		return nil
	}
	return &auth
}

// decodeHeader reads JSON in base64, as old and new clients write it.
func decodeHeader(value string, out any) error {
	value = strings.TrimRight(value, "=")
	b, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		if b, err = base64.RawStdEncoding.DecodeString(value); err != nil {
			return err
		}
	}
	return json.Unmarshal(b, out)
}

// pushImage is docker push.
func (s *Server) pushImage(ctx context.Context, c *call) error {
	var named reference.Named
	var err error
	if tag := c.get("tag"); tag != "" {
		named, err = repoTag(c.vars[0], tag)
	} else if named, err = reference.ParseNormalizedNamed(c.vars[0]); err != nil {
		err = worker.Invalidf("%v", err)
	}
	if err != nil {
		return err
	}
	opt, err := transferOptions(c, named)
	if err != nil {
		return err
	}
	if c.before(46) {
		opt.Platform = nil
	}
	names, err := s.namesIn(ctx, named)
	if err != nil {
		return err
	}
	p := newProgress(c)
	begin := sync.OnceFunc(func() { p.status("The push refers to repository [" + named.Name() + "]") })
	for _, n := range names {
		if err := s.push(ctx, &pushing{p, begin}, n, opt); err != nil {
			return p.end(err)
		}
	}
	return nil
}

// namesIn returns the references of the store that a reference stands for: without a tag all tags of the repository.
func (s *Server) namesIn(ctx context.Context, named reference.Named) ([]reference.Named, error) {
	list, err := s.opt.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range list {
		for _, n := range list[i].Names {
			ref, err := reference.ParseNormalizedNamed(n)
			if err == nil && (ref.String() == named.String() || reference.IsNameOnly(named) && ref.Name() == named.Name()) {
				names = append(names, n)
			}
		}
	}
	if names == nil {
		what := "tag: " + reference.FamiliarString(named)
		if !reference.IsNameOnly(named) {
			return nil, worker.NotFoundf("tag does not exist: %s", reference.FamiliarString(named))
		}
		return nil, worker.NotFoundf("An image does not exist locally with the %s", what)
	}
	slices.Sort(names)
	var out []reference.Named
	for _, n := range slices.Compact(names) {
		ref, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return nil, err
		}
		out = append(out, ref)
	}
	return out, nil
}

// A pushing is a push of one repository, with all tags that are wanted.
type pushing struct {
	*progress
	begin func() // names the repository, once
}

func (s *Server) push(ctx context.Context, p *pushing, named reference.Named, opt worker.TransferOptions) error {
	opt.Progress = func(st solver.Status) {
		p.begin()
		p.part(st, pushFirst)
	}
	desc, err := s.opt.Images.Push(ctx, named.String(), opt)
	switch {
	case errors.Is(err, registry.ErrUnauthorized):
		return worker.Errorf(worker.ErrNotFound, "push access denied for %s, repository does not exist or may require authorization: %v",
			reference.FamiliarName(named), err)
	case err != nil:
		return noImage(reference.FamiliarString(named), err)
	}
	p.begin()
	p.status(fmt.Sprintf("%s: digest: %s size: %d", tagOf(named), desc.Digest, desc.Size))
	p.aux("", map[string]any{"Tag": tagOf(named), "Digest": desc.Digest, "Size": desc.Size})
	return nil
}

// saveImages is docker save.
func (s *Server) saveImages(ctx context.Context, c *call) error {
	names := c.form["names"]
	if len(c.vars) > 0 {
		names = c.vars
	}
	if len(names) == 0 {
		return worker.Invalidf("no image was named")
	}
	platforms, err := c.imagePlatforms()
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := s.opt.Images.Inspect(ctx, n, nil); err != nil && !s.isRepository(ctx, n) {
			return noImage(n, err)
		}
	}
	c.w.Header().Set("Content-Type", "application/x-tar")
	return s.opt.Images.Save(ctx, names, platforms, c.w)
}

// isRepository says whether some name of the store is in the repository of that name.
func (s *Server) isRepository(ctx context.Context, name string) bool {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil || !reference.IsNameOnly(named) {
		return false
	}
	_, err = s.namesIn(ctx, named)
	return err == nil
}

// imagePlatforms are those that docker save or load is asked for; older versions know none, or one.
func (c *call) imagePlatforms() ([]op.Platform, error) {
	texts := c.form["platform"]
	switch {
	case c.before(48):
		texts = nil
	case c.before(52) && len(texts) > 1:
		return nil, worker.Invalidf("multiple platform parameters not supported")
	}
	return parsePlatforms(texts)
}

// loadImages is docker load.
func (s *Server) loadImages(ctx context.Context, c *call) error {
	platforms, err := c.imagePlatforms()
	if err != nil {
		return err
	}
	// The client may still send while it hears of the first layers.
	_ = http.NewResponseController(c.w).EnableFullDuplex() // HTTP/1.1 has it
	p := newProgress(c)
	opt := worker.LoadOptions{Platforms: platforms}
	if !c.isOr("quiet", true) {
		opt.Progress = func(st solver.Status) { p.part(st, "Loading layer") }
	}
	loaded, err := s.opt.Images.Load(ctx, c.r.Body, opt)
	if err != nil {
		return p.end(err)
	}
	for _, l := range loaded {
		if l.Name != "" {
			p.send(jsonstream.Message{Stream: "Loaded image: " + l.Name + "\n"})
		} else {
			p.send(jsonstream.Message{Stream: "Loaded image ID: " + l.ID.String() + "\n"})
		}
	}
	return nil
}
