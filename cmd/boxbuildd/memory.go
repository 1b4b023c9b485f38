package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// restAfter is how long nothing has run when the daemon gives memory back.
const restAfter = 5 * time.Second

// limitMemory sets when the garbage collector works harder, unless GOMEMLIMIT has.
func limitMemory(limit int64, env config.Env) {
	if limit > 0 && env.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}

// rest gives the memory of past builds back to the machine once the daemon is at rest: a heap that grew during a build
// would otherwise stay for minutes.
type rest struct{ done time.Time }

// tick is called now and then.
func (r *rest) tick(now, since time.Time, quiet bool) {
	if quiet && now.Sub(since) >= restAfter && r.done != since {
		r.done = since
		giveBack()
	}
}

// giveBack gives back what the process has no use for while nothing runs.
func giveBack() {
	runtime.GC() // what pools hold is dropped by the second collection after its last use only
	debug.FreeOSMemory()
	unmapProgram()
}

// unmapProgram lets go of the pages of the program's own file: the whole of it comes to be mapped in the course of some
// builds, which is more than the heap at rest. They stay in the kernel's cache, which may drop them now when it wants room,
// and are mapped again, sixteen at a time, when they are needed: a build after a rest pays a millisecond for it.
func unmapProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return // it is only an improvement
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	for _, m := range programMaps(maps, program) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
	}
}

// A mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// programMaps finds in smaps (proc_pid_smaps(5)) where the program's file is mapped, but for what cannot be read again from
// it: what can be written, or has been, by a dynamic linker or a debugger.
func programMaps(smaps []byte, program string) []mapping {
	var out []mapping
	var last *mapping // that the lines are about; nil if it is of no interest
	for lines := bufio.NewScanner(bytes.NewReader(smaps)); lines.Scan(); {
		var m mapping
		var mode, offset, device string
		var inode uint64
		line := lines.Text()
		if n, _ := fmt.Sscanf(line, "%x-%x %s %s %s %d", &m.start, &m.end, &mode, &offset, &device, &inode); n == 6 {
			if last = nil; strings.HasSuffix(line, " "+program) && len(mode) == 4 && mode[1] == '-' && mode[3] == 'p' {
				last = &m
			}
		} else if size := strings.Fields(line); len(size) == 3 && size[0] == "Anonymous:" && size[1] == "0" && last != nil {
			out = append(out, *last)
		}
	}
	return out
}
