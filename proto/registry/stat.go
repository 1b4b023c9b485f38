package registry

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Stat returns the descriptor of a blob of which only the digest is known: its size is what the registry says, and so has
// to be what Blob reads. The descriptor has no media type. The error wraps ErrNotFound if the repository has no such blob.
func (c *Client) Stat(ctx context.Context, repo Repo, digest v1.Hash) (Descriptor, error) {
	desc := Descriptor{Digest: digest, Size: -1}
	if err := CheckDigest(digest); err != nil {
		return desc, err
	}
	if err := repo.check(); err != nil {
		return desc, err
	}
	rq := &request{
		method: http.MethodHead, repo: repo.Path, rest: "blobs/" + digest.String(),
		scopes: []string{pullScope(repo.Path)}, about: repo.At(digest).String(), expect: []int{http.StatusOK},
	}
	err := c.pull(ctx, repo.Host, map[string]bool{}, func(ep *endpoint) error {
		resp, err := c.once(ctx, ep, rq)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if desc.Size, err = strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err != nil || desc.Size < 0 {
			return fmt.Errorf("the registry does not say how large it is")
		}
		return nil
	})
	if err != nil {
		return desc, fmt.Errorf("looking for %s: %w", repo.At(digest), err)
	}
	return desc, nil
}
