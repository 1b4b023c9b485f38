package registry

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// A Client speaks with registries. It is safe for concurrent use. Close it after the last call has returned.
type Client struct {
	opts Options
	salt []byte   // of credential fingerprints, so that they tell nothing outside this process
	anon *session // for calls whose context has no keychain: Options.Keychain

	resolves flight[resolveKey, Descriptor]
	fetches  flight[tokenKey, token]
	lookups  flight[lookupKey, credential]

	mu         sync.Mutex // guards what follows
	transports map[string]*http.Transport
	challenges map[string]challenge // by scheme and host
	tokens     map[tokenKey]token
	down       map[string]time.Time // mirrors not to be asked until then
	plain      map[string]bool      // insecure hosts that turned out to speak plain HTTP
	slots      map[slotKey]*semaphore.Weighted
}

// New returns a client. It fails only if the options are invalid.
func New(opts Options) (*Client, error) {
	opts.setDefaults()
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("configuring registries: %w", err)
	}
	salt := make([]byte, 32)
	rand.Read(salt) // never fails
	return &Client{
		opts:       opts,
		salt:       salt,
		anon:       newSession(opts.Keychain),
		transports: map[string]*http.Transport{},
		challenges: map[string]challenge{},
		tokens:     map[tokenKey]token{},
		down:       map[string]time.Time{},
		plain:      map[string]bool{},
		slots:      map[slotKey]*semaphore.Weighted{},
	}, nil
}

// Close waits for work that outlived its callers and closes idle connections.
func (c *Client) Close() error {
	c.resolves.wait()
	c.fetches.wait()
	c.lookups.wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.transports {
		t.CloseIdleConnections()
	}
	return nil
}

// Insecure returns a client like c which does not ask the hosts of those names to prove who they are, and speaks plain HTTP
// with one that does not know TLS, whatever c knows of their certificates. It shares nothing with c, and is to be closed.
func (c *Client) Insecure(hosts ...string) (*Client, error) {
	opts := c.opts
	if opts.Hosts = maps.Clone(opts.Hosts); opts.Hosts == nil {
		opts.Hosts = make(map[string]Host)
	}
	for _, h := range hosts {
		was := opts.Hosts[h]
		opts.Hosts[h] = Host{Insecure: true, TokenServers: was.TokenServers, ChunkSize: was.ChunkSize}
	}
	return New(opts)
}

// A slotKey names one limit: the blobs that go in one direction between us and one registry. Directions are limited
// apart, so that copying from a registry to itself cannot wait for itself.
type slotKey struct {
	host   string
	upload bool
}

// acquire waits for a transfer slot. The caller calls release once.
func (c *Client) acquire(ctx context.Context, key slotKey) (release func(), err error) {
	c.mu.Lock()
	sem, ok := c.slots[key]
	if !ok {
		sem = semaphore.NewWeighted(int64(c.opts.MaxConcurrency))
		c.slots[key] = sem
	}
	c.mu.Unlock()
	if err := sem.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	return func() { sem.Release(1) }, nil
}
