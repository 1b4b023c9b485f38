package main

import (
	"bufio"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// about describes this daemon and its machine.
func about(cfg *config.Daemon, more *boxbuildv1.InfoResponse) *boxbuildv1.InfoResponse {
	info := &boxbuildv1.InfoResponse{
		Version: version, GoVersion: runtime.Version(), Os: runtime.GOOS, Architecture: runtime.GOARCH,
		Cpus: int32(runtime.NumCPU()), Root: cfg.Root, Pid: int32(os.Getpid()),
		OperatingSystem: operatingSystem(), Started: timestamppb.New(time.Now()),
		IdleTimeoutSeconds: int64(cfg.Idle().Seconds()),
	}
	info.Revision = revision
	if build, ok := debug.ReadBuildInfo(); ok && revision == "" {
		for _, s := range build.Settings {
			if s.Key == "vcs.revision" {
				info.Revision = s.Value
			}
		}
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		info.Kernel = unix.ByteSliceToString(uts.Release[:])
		info.Hostname = unix.ByteSliceToString(uts.Nodename[:])
	}
	var sys unix.Sysinfo_t
	if unix.Sysinfo(&sys) == nil {
		info.Memory = int64(sys.Totalram) * int64(sys.Unit)
	}
	machine(info, cfg)
	if more != nil {
		proto.Merge(info, more)
	}
	return info
}

// operatingSystem is the name of the distribution.
func operatingSystem() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return "Linux"
}
