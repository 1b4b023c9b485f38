package runspec

import (
	"fmt"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"
)

// foreign are docker's flags that no Linux has a meaning for. None of them is taken and forgotten.
type foreign struct {
	cpuCount, cpuPercent int64
	ioMaxBandwidth       opts.MemBytes
	ioMaxIOps            uint64
	isolation            string
}

func (o *foreign) register(fs *pflag.FlagSet) {
	fs.Int64Var(&o.cpuCount, "cpu-count", 0, "CPU count (Windows only)")
	fs.Int64Var(&o.cpuPercent, "cpu-percent", 0, "CPU percent (Windows only)")
	fs.Var(&o.ioMaxBandwidth, "io-maxbandwidth", "Maximum IO bandwidth limit for the system drive (Windows only)")
	fs.Uint64Var(&o.ioMaxIOps, "io-maxiops", 0, "Maximum IOps limit for the system drive (Windows only)")
	fs.StringVar(&o.isolation, "isolation", "", "Container isolation technology")
	fs.Bool("disable-content-trust", true, "Skip image verification (deprecated)") // there is none
	_ = fs.MarkDeprecated("disable-content-trust", "support for docker content trust was removed")
	hide(fs, "cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops")
}

func (o *foreign) apply(req *container.CreateRequest, fs *pflag.FlagSet) error {
	for _, flag := range []struct{ name, instead string }{
		{"cpu-count", "--cpus"},
		{"cpu-percent", "--cpus"},
		{"io-maxbandwidth", "--device-read-bps and --device-write-bps"},
		{"io-maxiops", "--device-read-iops and --device-write-iops"},
	} {
		if fs.Changed(flag.name) {
			return fmt.Errorf("--%s is not supported: it is for Windows; use %s", flag.name, flag.instead)
		}
	}
	req.HostConfig.Isolation = container.Isolation(o.isolation)
	if !req.HostConfig.Isolation.IsDefault() {
		return fmt.Errorf("--isolation %s is not supported: on Linux there is only \"default\"", o.isolation)
	}
	return nil
}
