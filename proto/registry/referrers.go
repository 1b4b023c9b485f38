package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Referrers returns what a repository has that says that it is about a manifest: signatures, say (distribution
// specification, "Listing Referrers"). Of a registry that cannot list these it is what is in the index under the tag that
// the specification has clients keep instead. It is empty if there is nothing, or the manifest itself is not there. Mirrors
// are not asked: what is said of a manifest changes. Errors are ErrUnauthorized, ErrTooLarge, ErrManifest, *StatusError.
func (c *Client) Referrers(ctx context.Context, repo Repo, digest v1.Hash) ([]Descriptor, error) {
	if err := errors.Join(repo.check(), CheckDigest(digest)); err != nil {
		return nil, err
	}
	list, err := c.referrers(ctx, repo, digest)
	var answer *StatusError
	if errors.As(err, &answer) && !errors.Is(err, ErrUnauthorized) && !serverFault(err) { // it does not know the question
		list, err = c.taggedReferrers(ctx, repo, digest)
	}
	if err != nil {
		return nil, fmt.Errorf("listing what refers to %s: %w", repo.At(digest), err)
	}
	return list, nil
}

func (c *Client) referrers(ctx context.Context, repo Repo, digest v1.Hash) ([]Descriptor, error) {
	var all []Descriptor
	for query, seen := (url.Values{}), map[string]bool{}; query != nil && !seen[query.Encode()]; {
		seen[query.Encode()] = true
		var page []Descriptor
		var next url.Values
		err := c.retry(ctx, func() (err error) {
			page, next, err = c.referrersAt(ctx, repo, digest, query)
			return err
		})
		if err == nil && len(all)+len(page) > maxEntries {
			err = fmt.Errorf("an index of more than %d manifests: %w", maxEntries, ErrTooLarge)
		}
		if err != nil {
			return nil, err
		}
		all, query = append(all, page...), next
	}
	return all, nil
}

// referrersAt asks for a part of the list, and returns how to ask for the next one.
func (c *Client) referrersAt(ctx context.Context, repo Repo, digest v1.Hash, query url.Values) ([]Descriptor, url.Values, error) {
	resp, err := c.once(ctx, c.origin(repo.Host), &request{
		method: http.MethodGet, repo: repo.Path, rest: "referrers/" + digest.String(), query: query, scopes: []string{pullScope(repo.Path)},
		about: repo.At(digest).String(), expect: []int{http.StatusOK},
	})
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := readDocument(resp)
	if err != nil {
		return nil, nil, err
	}
	list, err := decodeReferrers(b)
	return list, nextQuery(resp.Header.Get("Link")), err
}

// taggedReferrers reads the index that stands for a list.
func (c *Client) taggedReferrers(ctx context.Context, repo Repo, digest v1.Hash) ([]Descriptor, error) {
	var b []byte
	err := c.retry(ctx, func() (err error) {
		_, b, err = c.getAt(ctx, c.origin(repo.Host), repo.Tag(digest.Algorithm+"-"+digest.Hex))
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeReferrers(b)
}

func decodeReferrers(b []byte) ([]Descriptor, error) {
	var idx v1.IndexManifest
	if err := json.Unmarshal(b, &idx); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	for i, d := range idx.Manifests {
		if err := checkDescriptor(d); err != nil {
			return nil, fmt.Errorf("%w: manifest %d: %w", ErrManifest, i, err)
		}
	}
	return idx.Manifests, nil
}

// nextQuery reads `<url>; rel="next"` and returns the query of the URL, or nil.
func nextQuery(link string) url.Values {
	target, params, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
	if !ok || !strings.Contains(params, `rel="next"`) && !strings.Contains(params, "rel=next") {
		return nil
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil
	}
	return u.Query()
}
