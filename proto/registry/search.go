package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// maxCatalog is how many repositories of a registry are looked at when it cannot search itself.
const maxCatalog = 100_000

// A Found is a repository that a search has found.
type Found struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Stars       int    `json:"star_count"`
	Official    bool   `json:"is_official"`
}

// Search returns at most limit repositories of a registry whose names, or descriptions, have to do with term. Docker Hub
// and some others search themselves; of the others the catalog is read (distribution specification, "Listing
// Repositories" of Docker's original). The error is a *StatusError if the registry offers neither.
func (c *Client) Search(ctx context.Context, host, term string, limit int) ([]Found, error) {
	if err := (Repo{host, "library/x"}).check(); err != nil { // which has two parts on Docker Hub
		return nil, fmt.Errorf("searching %s: %w", host, err)
	}
	ep := c.origin(host)
	if host == dockerHub {
		ep.addr = dockerHubIndex
	}
	var page struct {
		Results []Found `json:"results"`
	}
	_, err := c.document(ctx, ep, &request{
		url: ep.at("/v1/search"), query: url.Values{"q": {term}, "n": {strconv.Itoa(limit)}}, about: host,
	}, &page)
	var refused *StatusError
	if errors.As(err, &refused) && host != dockerHub && refused.Status != http.StatusTooManyRequests {
		page.Results, err = c.catalog(ctx, ep, term, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("searching %s: %w", host, err)
	}
	return page.Results[:min(limit, len(page.Results))], nil
}

// catalog looks through the names of all repositories.
func (c *Client) catalog(ctx context.Context, ep *endpoint, term string, limit int) ([]Found, error) {
	var out []Found
	seen := 0
	for query := (url.Values{"n": {"1000"}}); query != nil && len(out) < limit && seen < maxCatalog; {
		var page struct {
			Repositories []string `json:"repositories"`
		}
		header, err := c.document(ctx, ep, &request{
			url: ep.at("/v2/_catalog"), query: query, scopes: []string{"registry:catalog:*"}, about: ep.name,
		}, &page)
		if err != nil {
			return nil, err
		}
		for _, name := range page.Repositories {
			if seen++; strings.Contains(name, term) && (Repo{ep.name, name}).check() == nil {
				out = append(out, Found{Name: name})
			}
		}
		next := nextPage(header.Get("Link"))
		if next != nil && next.Get("last") == query.Get("last") {
			break // the same page again would go on for ever
		}
		query = next
	}
	return out, nil
}

// at is a location on the server of ep.
func (ep *endpoint) at(path string) *url.URL {
	return &url.URL{Scheme: ep.scheme, Host: ep.addr, Path: path}
}

// document gets a document of JSON, and the headers of the answer.
func (c *Client) document(ctx context.Context, ep *endpoint, rq *request, out any) (header http.Header, err error) {
	rq.method, rq.expect = http.MethodGet, []int{http.StatusOK}
	var b []byte
	err = c.retry(ctx, func() error {
		resp, err := c.once(ctx, ep, rq)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		header = resp.Header
		if b, err = io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1)); err != nil {
			return &transportError{fmt.Errorf("reading the answer: %w", err)}
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case len(b) > MaxManifest:
		return nil, fmt.Errorf("the answer: %w of %d bytes", ErrTooLarge, MaxManifest)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return header, nil
}
