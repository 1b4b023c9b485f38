package config

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"
)

// Client configures boxbuild.
type Client struct {
	// Root is the directory of the daemon's state. The client does not touch it; it derives the address from it, and
	// hands it to the daemon that it starts. --root, BOXBUILD_ROOT; /var/lib/boxbuild for root, else
	// $XDG_DATA_HOME/boxbuild.
	Root string
	// Addr is where the daemon listens, unix:///path or tcp://host:port. --addr; BOXBUILD_ADDR, unless --root is given;
	// else derived from Root.
	Addr string
	// TLS is for tcp://: the files of --tlsdir or BOXBUILD_TLSDIR (ca.pem, cert.pem, key.pem), or those of --tlscacert,
	// --tlscert and --tlskey, BOXBUILD_TLSCACERT, BOXBUILD_TLSCERT and BOXBUILD_TLSKEY. Without any of them the connection
	// is not encrypted, and the daemon does not know who calls.
	TLS TLS
	// TLSServerName is whom the daemon's certificate is for; else the host of Addr. --tlsservername,
	// BOXBUILD_TLSSERVERNAME.
	TLSServerName string
	// Start says that boxbuild starts a daemon when none listens: if the address was not given but derived.
	Start bool
	// Debug makes the client say what it does. --debug.
	Debug bool
	// Progress is the default of --progress. BUILDKIT_PROGRESS; else "auto".
	Progress string
	// Platform is the default of --platform. DOCKER_DEFAULT_PLATFORM.
	Platform string
	// IdleTimeout is how long a daemon that this client starts stays without work; 0 for ever. BOXBUILD_IDLE_TIMEOUT; 5m.
	IdleTimeout time.Duration
	// Epoch is passed on to builds as the argument SOURCE_DATE_EPOCH. SOURCE_DATE_EPOCH.
	Epoch string
	// Cache is the directory of what the client remembers of build contexts that it sends, "" for none.
	// $XDG_CACHE_HOME/boxbuild; else ~/.cache/boxbuild.
	Cache string

	rootFlag, addrFlag, tlsDir string
	env                        Env
}

// NewClient returns the defaults, and adds the flags to fs. Call Load once they are parsed.
func NewClient(fs *pflag.FlagSet, env Env) *Client {
	c := &Client{env: env, Progress: "auto"}
	if p := env.Getenv("BUILDKIT_PROGRESS"); p != "" {
		c.Progress = p
	}
	c.Platform = env.Getenv("DOCKER_DEFAULT_PLATFORM")
	c.Epoch = env.Getenv("SOURCE_DATE_EPOCH")
	c.Cache = env.cacheDir()
	fs.StringVar(&c.addrFlag, "addr", "", `Address of the daemon, such as "unix:///run/boxbuild/boxbuild.sock"`)
	fs.StringVar(&c.rootFlag, "root", "", "Directory of the daemon's state; selects the daemon by it")
	fs.StringVar(&c.TLS.CA, "tlscacert", env.Getenv("BOXBUILD_TLSCACERT"), "Certificate of the authority that signs the daemon's, for tcp://")
	fs.StringVar(&c.TLS.Cert, "tlscert", env.Getenv("BOXBUILD_TLSCERT"), "Client certificate, for tcp://")
	fs.StringVar(&c.TLS.Key, "tlskey", env.Getenv("BOXBUILD_TLSKEY"), "Key of the client certificate")
	fs.StringVar(&c.tlsDir, "tlsdir", env.Getenv("BOXBUILD_TLSDIR"), "Directory with ca.pem, cert.pem and key.pem, instead of those")
	fs.StringVar(&c.TLSServerName, "tlsservername", env.Getenv("BOXBUILD_TLSSERVERNAME"), "Whom the daemon's certificate is for, if not the host of --addr")
	fs.BoolVarP(&c.Debug, "debug", "D", false, "Enable debug mode")
	return c
}

// Load finds root and address, and validates.
func (c *Client) Load() error {
	var given bool
	var err error
	if c.Root, c.Addr, given, err = c.env.locate(c.rootFlag, c.addrFlag); err != nil {
		return err
	}
	c.Start = !given
	if c.tlsDir != "" {
		if c.TLS.Enabled() {
			return errors.New("--tlsdir cannot be used with --tlscacert, --tlscert or --tlskey")
		}
		if c.TLS, err = dirTLS(c.tlsDir); err != nil {
			return err
		}
	}
	c.IdleTimeout = 5 * time.Minute
	if t := c.env.Getenv("BOXBUILD_IDLE_TIMEOUT"); t != "" {
		if c.IdleTimeout, err = time.ParseDuration(t); err != nil {
			return fmt.Errorf("BOXBUILD_IDLE_TIMEOUT: %w", err)
		}
	}
	return c.Validate()
}

// Validate says what is wrong with the configuration.
func (c *Client) Validate() error {
	a, err := ParseAddress(c.Addr)
	if err == nil && a.Network == "fd" {
		err = fmt.Errorf("address %q: only unix:///path and tcp://host:port are supported", c.Addr)
	}
	return errors.Join(checkRoot(c.Root), err)
}
