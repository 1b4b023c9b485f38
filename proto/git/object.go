package git

import (
	"context"
	"fmt"
	"strings"
)

// Objects are what a repository has of a commit, as git stores it without the header: with the signature in it.
type Objects struct {
	Commit []byte
	Tag    []byte // the annotated tag; nil if src.Commit is no tag's hash
}

// Objects returns the commit that src.Commit leads to, and the tag if it is one's, which are fetched if need be.
func (c *Client) Objects(ctx context.Context, src *Source) (*Objects, error) {
	a, err := parseRemote(src.Remote.URL)
	if err != nil {
		return nil, err
	}
	m, release := c.acquire(a.url, len(src.Commit))
	defer release()
	if err := c.fetch(ctx, m, &src.Remote, src.Commit, src.Ref); err != nil {
		return nil, err
	}
	kind, err := c.run(ctx, &command{args: []string{"cat-file", "-t", src.Commit}, gitDir: m.dir, quiet: true})
	if err != nil {
		return nil, err
	}
	out := &Objects{}
	if strings.TrimSpace(string(kind)) == "tag" {
		if out.Tag, err = c.object(ctx, m, "tag", src.Commit); err != nil {
			return nil, err
		}
	}
	out.Commit, err = c.object(ctx, m, "commit", src.Commit+"^{commit}")
	return out, err
}

func (c *Client) object(ctx context.Context, m *mirror, kind, name string) ([]byte, error) {
	data, err := c.run(ctx, &command{args: []string{"cat-file", kind, name}, gitDir: m.dir, quiet: true})
	if err != nil {
		return nil, fmt.Errorf("reading %s %s: %w", kind, name, err)
	}
	return data, nil
}
