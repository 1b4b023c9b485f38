package runspec

import (
	"errors"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"
)

// health is how the container is found to be well, in place of what the image says.
type health struct {
	cmd                                           string
	interval, timeout, startPeriod, startInterval time.Duration
	retries                                       int
	none                                          bool
}

func (h *health) register(fs *pflag.FlagSet) {
	fs.StringVar(&h.cmd, "health-cmd", "", "Command to run to check health")
	fs.DurationVar(&h.interval, "health-interval", 0, "Time between running the check (ms|s|m|h) (default 0s)")
	fs.IntVar(&h.retries, "health-retries", 0, "Consecutive failures needed to report unhealthy")
	fs.DurationVar(&h.timeout, "health-timeout", 0, "Maximum time to allow one check to run (ms|s|m|h) (default 0s)")
	fs.DurationVar(&h.startPeriod, "health-start-period", 0,
		"Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)")
	fs.DurationVar(&h.startInterval, "health-start-interval", 0,
		"Time between running the check during the start period (ms|s|m|h) (default 0s)")
	fs.BoolVar(&h.none, "no-healthcheck", false, "Disable any container-specified HEALTHCHECK")
}

func (h *health) apply(req *container.CreateRequest, _ *pflag.FlagSet) error {
	settings := *h
	settings.none = false
	given := settings != health{}
	switch {
	case h.none && given:
		return errors.New("--no-healthcheck conflicts with --health-* options")
	case h.none:
		req.Healthcheck = &container.HealthConfig{Test: []string{"NONE"}}
		return nil
	case !given:
		return nil
	}
	for _, n := range []struct {
		flag  string
		value int64
	}{
		{"interval", int64(h.interval)},
		{"timeout", int64(h.timeout)},
		{"retries", int64(h.retries)},
		{"start-period", int64(h.startPeriod)},
		{"start-interval", int64(h.startInterval)},
	} {
		if n.value < 0 {
			return fmt.Errorf("--health-%s cannot be negative", n.flag)
		}
	}
	req.Healthcheck = &container.HealthConfig{
		Interval: h.interval, Timeout: h.timeout, StartPeriod: h.startPeriod, StartInterval: h.startInterval, Retries: h.retries,
	}
	if h.cmd != "" {
		req.Healthcheck.Test = []string{"CMD-SHELL", h.cmd}
	}
	return nil
}
