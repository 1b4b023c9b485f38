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
	// Addr is where the daemon listens, unix:///path. --addr, BOXBUILD_ADDR; else derived from Root.
	Addr string
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

	rootFlag, addrFlag string
	env                Env
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
	_, err := SocketPath(c.Addr)
	return errors.Join(checkRoot(c.Root), err)
}
