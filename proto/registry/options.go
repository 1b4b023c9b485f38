package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Options configure a Client. The zero value pulls what the public may pull.
type Options struct {
	// Hosts configures registries, mirrors and token servers by name, as written in references: "docker.io",
	// "registry.example:5000". Names that are not here are spoken with over verified TLS, local ones over plain HTTP.
	Hosts map[string]Host
	// Keychain has the credentials of calls whose context has none from WithKeychain; nil means none.
	Keychain authn.Keychain
	// UserAgent is sent with every request; empty means "boxbuild".
	UserAgent string
	// MaxConcurrency is how many blobs are downloaded from one registry at once, and how many uploaded; 0 means 6.
	// Manifests and other small requests do not count.
	MaxConcurrency int
	Retry          RetryPolicy
	// StallTimeout is how long a connection may deliver nothing before it counts as broken; 0 means one minute. A
	// registry that stores a finished upload has ten times that.
	StallTimeout time.Duration
	// Dial replaces the way to connect to "host:port"; nil means the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Proxy chooses the proxy of a request; nil means what HTTPS_PROXY, HTTP_PROXY and NO_PROXY say.
	Proxy func(*http.Request) (*url.URL, error)
}

// A Host says how to speak with a host.
type Host struct {
	// Mirrors are asked before the registry itself, in order, when something is pulled:
	// "[http://|https://]host[:port][/path]". A path goes before the repository's. How to speak with a mirror is looked up
	// in Hosts under its own host, and so are its credentials.
	Mirrors []string
	// PlainHTTP speaks HTTP without TLS.
	PlainHTTP bool
	// Insecure does not verify the certificate, and speaks plain HTTP if the port turns out not to know TLS.
	Insecure bool
	// CA holds PEM certificates that are trusted besides the system's.
	CA []byte
	// KeyPairs are client certificates, of which a server is shown the first that it says it accepts.
	KeyPairs []KeyPair
	// TokenServers are hosts ("auth.example", "auth.example:5001") of other domains that may be given this registry's
	// credentials when it names them as its token server.
	TokenServers []string
	// ChunkSize, in bytes, splits larger uploads, for registries behind proxies that limit the size of requests. 0 sends
	// a blob in one request, unless the registry answers that it is too large.
	ChunkSize int64
}

// A KeyPair is a certificate and its key, in PEM.
type KeyPair struct{ Cert, Key []byte }

// RetryPolicy bounds how often and when something is tried again: after 408, 429, 5xx, and broken connections. The wait
// before attempt n+1 is random between 0 and Base·2ⁿ⁻¹, at most Max; a Retry-After of the registry is waited for instead.
type RetryPolicy struct {
	Attempts int           // in all; 0 means 5
	Base     time.Duration // 0 means 400 ms
	Max      time.Duration // 0 means 10 s
	// MaxRetryAfter is the longest Retry-After that is waited for; one that is longer ends the call at once, since trying
	// before it is over is useless. 0 means one minute.
	MaxRetryAfter time.Duration
}

func (o *Options) setDefaults() {
	def(&o.UserAgent, "boxbuild")
	def(&o.MaxConcurrency, 6)
	def(&o.StallTimeout, time.Minute)
	def(&o.Retry.Attempts, 5)
	def(&o.Retry.Base, 400*time.Millisecond)
	def(&o.Retry.Max, 10*time.Second)
	def(&o.Retry.MaxRetryAfter, time.Minute)
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Validate says what is wrong with the options.
func (o *Options) Validate() error {
	var errs []error
	if o.MaxConcurrency < 0 || o.StallTimeout < 0 || o.Retry.Attempts < 0 || o.Retry.Base < 0 || o.Retry.Max < 0 ||
		o.Retry.MaxRetryAfter < 0 {
		errs = append(errs, errors.New("a limit is negative"))
	}
	for name, h := range o.Hosts {
		if err := h.validate(name); err != nil {
			errs = append(errs, fmt.Errorf("registry %q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (h *Host) validate(name string) error {
	if name == "" || name != strings.ToLower(name) || strings.ContainsAny(name, "/@ ") {
		return errors.New("the name is not a host in lower case, with an optional port")
	}
	if h.PlainHTTP && (len(h.CA) > 0 || len(h.KeyPairs) > 0) {
		return errors.New("it has certificates although it is spoken with over plain HTTP")
	}
	if h.ChunkSize < 0 {
		return errors.New("the chunk size is negative")
	}
	for _, m := range h.Mirrors {
		if _, err := parseMirror(m); err != nil {
			return err
		}
	}
	_, err := h.tlsConfig()
	return err
}

// tlsConfig returns what a connection to the host needs, or why there is no such thing.
func (h *Host) tlsConfig() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: h.Insecure} // #nosec: asked for by name
	if len(h.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // a minimal system has no certificates; the configured ones are enough
		}
		if !pool.AppendCertsFromPEM(h.CA) {
			return nil, errors.New("the CA holds no certificate in PEM")
		}
		conf.RootCAs = pool
	}
	for i, kp := range h.KeyPairs {
		pair, err := tls.X509KeyPair(kp.Cert, kp.Key)
		if err != nil {
			return nil, fmt.Errorf("reading client certificate %d: %w", i+1, err)
		}
		conf.Certificates = append(conf.Certificates, pair)
	}
	return conf, nil
}
