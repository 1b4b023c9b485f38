package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
)

// maxTags bounds the tags of a repository that are taken, so that a registry which never ends its list is not followed.
const maxTags = 100_000

// Tags returns the tags that a registry has of a repository, sorted (distribution specification, "Listing Tags"). Errors
// are ErrNotFound, ErrUnauthorized, ErrTooLarge, *StatusError. Mirrors are not asked: they have what was pulled.
func (c *Client) Tags(ctx context.Context, repo Repo) ([]string, error) {
	if err := repo.check(); err != nil {
		return nil, err
	}
	var tags []string
	query := url.Values{}
	for {
		var page tagPage
		err := c.retry(ctx, func() (err error) {
			page, err = c.tagsAt(ctx, repo, query)
			return err
		})
		if err == nil && len(tags)+len(page.Tags) > maxTags {
			err = fmt.Errorf("more than %d tags: %w", maxTags, ErrTooLarge)
		}
		if err != nil {
			return nil, fmt.Errorf("listing the tags of %s: %w", repo, err)
		}
		tags = append(tags, page.Tags...)
		// The same page again would go on for ever.
		if page.next == nil || page.next.Get("last") == query.Get("last") {
			break
		}
		query = page.next
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

// A tagPage is a part of the list.
type tagPage struct {
	Tags []string `json:"tags"`
	next url.Values
}

func (c *Client) tagsAt(ctx context.Context, repo Repo, query url.Values) (tagPage, error) {
	var page tagPage
	resp, err := c.once(ctx, c.origin(repo.Host), &request{
		method: http.MethodGet, repo: repo.Path, rest: "tags/list", query: query, scopes: []string{pullScope(repo.Path)},
		about: repo.String(), expect: []int{http.StatusOK},
	})
	if err != nil {
		return page, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1))
	switch {
	case err != nil:
		return page, &transportError{fmt.Errorf("reading the list of tags: %w", err)}
	case len(b) > MaxManifest:
		return page, fmt.Errorf("a list of tags: %w of %d bytes", ErrTooLarge, MaxManifest)
	}
	if err := json.Unmarshal(b, &page); err != nil {
		return page, fmt.Errorf("reading the list of tags: %w", err)
	}
	for _, t := range page.Tags {
		if repo.Tag(t).check() != nil {
			return page, errors.New("reading the list of tags: " + printable(t, 128) + " is no tag")
		}
	}
	page.next = nextPage(resp.Header.Get("Link"))
	return page, nil
}

// nextPage returns what a link to the next page says of it: where the rest goes the client knows itself.
func nextPage(link string) url.Values {
	query := nextQuery(link)
	if query.Get("last") == "" {
		return nil
	}
	next := url.Values{"last": {query.Get("last")}}
	if n := query.Get("n"); n != "" {
		next.Set("n", n)
	}
	return next
}
