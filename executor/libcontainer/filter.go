//go:build cgo

package libcontainer

/*
#cgo LDFLAGS: -Wl,--wrap=seccomp_rule_add_array -Wl,--wrap=seccomp_rule_add_exact_array -Wl,--wrap=seccomp_export_bpf
#include <errno.h>
#include <stddef.h>
#include <unistd.h>
#include <seccomp.h>

// Of this process: a compiled filter, or where to write the one that will be compiled.
static const char *filter;
static size_t filter_len;
static int capture = -1;

void boxshim_use_filter(const char *p, size_t n) { filter = p; filter_len = n; }
void boxshim_capture_filter(int fd) { capture = fd; }

int __real_seccomp_rule_add_array(scmp_filter_ctx, uint32_t, int, unsigned int, const struct scmp_arg_cmp *);
int __real_seccomp_rule_add_exact_array(scmp_filter_ctx, uint32_t, int, unsigned int, const struct scmp_arg_cmp *);
int __real_seccomp_export_bpf(const scmp_filter_ctx, int);

int __wrap_seccomp_rule_add_array(scmp_filter_ctx c, uint32_t act, int nr, unsigned int n, const struct scmp_arg_cmp *a) {
	return filter ? 0 : __real_seccomp_rule_add_array(c, act, nr, n, a);
}

int __wrap_seccomp_rule_add_exact_array(scmp_filter_ctx c, uint32_t act, int nr, unsigned int n, const struct scmp_arg_cmp *a) {
	return filter ? 0 : __real_seccomp_rule_add_exact_array(c, act, nr, n, a);
}

int __wrap_seccomp_export_bpf(const scmp_filter_ctx c, int fd) {
	if (!filter) {
		int err = capture >= 0 ? __real_seccomp_export_bpf(c, capture) : 0;
		return err ? err : __real_seccomp_export_bpf(c, fd);
	}
	for (size_t done = 0; done < filter_len;) {
		ssize_t n = write(fd, filter + done, filter_len - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -ECANCELED;
		done += n;
	}
	return 0;
}
*/
import "C"

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// A profile is a system call filter that has been compiled.
//
// libcontainer compiles the filter in the new process of every sandbox. With Docker's profile, libseccomp needs 14 ms
// for that: more than all the rest of a start. The result depends on nothing but the profile, so a process of its own,
// "boxshim filter", compiles it once, with libcontainer's code, and the processes of sandboxes get it in a sealed memfd.
// There, libcontainer still builds and loads the filter; but the functions of libseccomp above, which the linker puts
// before the real ones, add no rule, and export what was compiled before.
type profile struct {
	config  *configs.Seccomp // what the new process gets: without the rules, see slim
	program *os.File         // sealed; nil if config holds all rules, and they are to be compiled there
}

// profiles remembers the profile of each filter that sandboxes have used.
type profiles struct {
	mu sync.Mutex
	m  map[*specs.LinuxSeccomp]*lazyProfile // guarded by mu
}

type lazyProfile struct {
	once sync.Once
	p    *profile
	err  error
}

// maxProfiles bounds what is remembered. The default profile has a variant for each set of capabilities; those that
// callers bring along with a sandbox are met once.
const maxProfiles = 32

func (ps *profiles) get(filter *specs.LinuxSeccomp, ready *CompiledFilter) (*profile, error) {
	if filter == nil {
		return &profile{}, nil
	}
	if ready != nil {
		return ready.profile()
	}
	ps.mu.Lock()
	l := ps.m[filter]
	if l == nil {
		if len(ps.m) >= maxProfiles {
			ps.mu.Unlock()
			return plainProfile(filter)
		}
		if ps.m == nil {
			ps.m = make(map[*specs.LinuxSeccomp]*lazyProfile)
		}
		l = new(lazyProfile)
		ps.m[filter] = l
	}
	ps.mu.Unlock()
	l.once.Do(func() { l.p, l.err = compile(filter) })
	return l.p, l.err
}

// A CompiledFilter is a system call filter in the form in which another process can use it.
type CompiledFilter struct {
	Config  json.RawMessage // without its rules
	Program *os.File        // sealed
}

func (c *CompiledFilter) profile() (*profile, error) {
	config := new(configs.Seccomp)
	if err := json.Unmarshal(c.Config, config); err != nil {
		return nil, fmt.Errorf("decoding a compiled filter: %w", err)
	}
	return &profile{config: config, program: c.Program}, nil
}

// Compiled returns what filter has been, or will now be, compiled to; nil for one that each sandbox has to compile. The
// file is the Runtime's.
func (r *Runtime) Compiled(filter *specs.LinuxSeccomp) (*CompiledFilter, error) {
	p, err := r.profiles.get(filter, nil)
	if err != nil || p.program == nil {
		return nil, err
	}
	config, err := json.Marshal(p.config)
	if err != nil {
		return nil, fmt.Errorf("encoding a compiled filter: %w", err)
	}
	return &CompiledFilter{Config: config, Program: p.program}, nil
}

// plainProfile returns one that is compiled in each sandbox.
func plainProfile(filter *specs.LinuxSeccomp) (*profile, error) {
	config, err := specconv.SetupSeccomp(filter)
	if err != nil {
		return nil, fmt.Errorf("converting the seccomp profile: %w", err)
	}
	return &profile{config: config}, nil
}

// compile compiles a filter in a process of its own, as that loads it, too.
func compile(filter *specs.LinuxSeccomp) (*profile, error) {
	plain, err := plainProfile(filter)
	if err != nil || plain.config == nil {
		return plain, err
	}
	if slices.ContainsFunc(plain.config.Syscalls, func(c *configs.Syscall) bool { return c.Action == configs.Notify }) {
		return plain, nil // libcontainer looks for such rules when it loads the filter
	}
	in, err := json.Marshal(plain.config)
	if err != nil {
		return nil, fmt.Errorf("encoding the seccomp profile: %w", err)
	}
	fd, err := unix.MemfdCreate("filter", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making room for a filter: %w", err)
	}
	program := os.NewFile(uintptr(fd), "filter")
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("/proc/self/exe", FilterMode)
	cmd.Env = []string{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &stdout, &stderr
	cmd.ExtraFiles = []*os.File{program}
	if err := cmd.Run(); err != nil {
		program.Close()
		return nil, fmt.Errorf("compiling the seccomp profile: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	config := new(configs.Seccomp)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	if err == nil {
		err = json.Unmarshal(stdout.Bytes(), config)
	}
	if err != nil {
		program.Close()
		return nil, fmt.Errorf("taking over a filter: %w", err)
	}
	return &profile{config: config, program: program}, nil
}

// FilterMode is the argument with which compile runs this program.
const FilterMode = "filter"

// CompileFilter is the program's filter mode: it reads a profile from standard input, and writes the compiled filter to
// descriptor 3 and the profile without its rules to standard output.
func CompileFilter() error {
	var config configs.Seccomp
	if err := json.NewDecoder(os.Stdin).Decode(&config); err != nil {
		return fmt.Errorf("decoding the seccomp profile: %w", err)
	}
	rest, err := slim(&config)
	if err != nil {
		return err
	}
	out, err := json.Marshal(rest)
	if err != nil {
		return fmt.Errorf("encoding the seccomp profile: %w", err)
	}
	// Before the filter applies to this process, too.
	if _, err := os.Stdout.Write(out); err != nil {
		return fmt.Errorf("writing the seccomp profile: %w", err)
	}
	C.boxshim_capture_filter(3)
	if _, err := seccomp.InitSeccomp(&config); err != nil {
		return fmt.Errorf("compiling the seccomp profile: %w", err)
	}
	return nil
}

// slim returns config with no more rules than libcontainer needs when it loads the compiled filter: it puts code in
// front that answers ENOSYS to system calls above the highest one that the profile knows, for each architecture.
func slim(config *configs.Seccomp) (*configs.Seccomp, error) {
	archs := []libseccomp.ScmpArch{libseccomp.ArchNative}
	for _, name := range config.Architectures {
		a, err := libseccomp.GetArchFromString(name)
		if err != nil {
			return nil, fmt.Errorf("seccomp profile: architecture %s: %w", name, err)
		}
		archs = append(archs, a)
	}
	out := *config
	out.Syscalls = nil
	for _, a := range archs {
		var last libseccomp.ScmpSyscall
		var rule *configs.Syscall
		for _, call := range config.Syscalls {
			// A name that the library does not know is no error in a profile.
			if n, err := libseccomp.GetSyscallFromNameByArch(call.Name, a); err == nil && n > last {
				last, rule = n, call
			}
		}
		if rule != nil && !slices.Contains(out.Syscalls, rule) {
			out.Syscalls = append(out.Syscalls, rule)
		}
	}
	return &out, nil
}

// useFilter makes this process load the compiled filter in f instead of compiling one.
func useFilter(f int) error {
	var st unix.Stat_t
	if err := unix.Fstat(f, &st); err != nil {
		return fmt.Errorf("examining the filter: %w", err)
	}
	if st.Size == 0 {
		return errors.New("using the filter: it is empty")
	}
	data, err := unix.Mmap(f, 0, int(st.Size), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("using the filter: %w", err)
	}
	// Mapped until the process executes its command.
	C.boxshim_use_filter((*C.char)(unsafe.Pointer(&data[0])), C.size_t(len(data)))
	return nil
}
