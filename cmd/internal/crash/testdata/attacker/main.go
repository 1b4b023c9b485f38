// Attacker tries in a container what must not be possible there, and prints a line for each attempt that succeeded. Its
// arguments are the number of a process outside, and the directory of a file "file" that is only outside.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	pid, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	for name, try := range attempts(pid, os.Args[2]) {
		if err := try(); err == nil {
			fmt.Println("possible:", name)
		}
	}
	fmt.Println("done")
}

// call is a system call that must be refused, with arguments that are invalid where it would do harm: EINVAL, EFAULT and
// EBADF say that it was not refused.
func call(number uintptr, args ...uintptr) func() error {
	args = append(args, make([]uintptr, 6)...)
	return func() error {
		_, _, e := unix.Syscall6(number, args[0], args[1], args[2], args[3], args[4], args[5])
		if e == 0 || e == unix.EINVAL || e == unix.EFAULT || e == unix.EBADF {
			return nil
		}
		return e
	}
}

func attempts(pid int, outside string) map[string]func() error {
	all := map[string]func() error{
		"mount":          func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
		"remount":        func() error { return unix.Mount("", "/sys", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		"unmask":         func() error { return unix.Unmount("/proc/kcore", unix.MNT_DETACH) },
		"open_tree":      func() error { _, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE); return err },
		"fsopen":         func() error { _, err := unix.Fsopen("tmpfs", 0); return err },
		"pivot_root":     func() error { return unix.PivotRoot("/", "/") },
		"user namespace": clone(unix.CLONE_NEWUSER),
		"namespace":      clone(unix.CLONE_NEWNS),
		"net namespace":  clone(unix.CLONE_NEWNET),
		"pid namespace":  func() error { return unix.Unshare(unix.CLONE_NEWPID) },
		"setns":          func() error { return setns("/proc/1/ns/net", unix.CLONE_NEWNET) },
		"setns mount":    func() error { return setns("/proc/1/ns/mnt", unix.CLONE_NEWNS) },
		"setns outside":  func() error { return setns(fmt.Sprintf("/proc/%d/ns/mnt", pid), 0) },
		"kill":           func() error { return unix.Kill(pid, 0) },
		"pidfd_open":     func() error { _, err := unix.PidfdOpen(pid, 0); return err },
		"ptrace":         func() error { return unix.PtraceSeize(pid) },
		"process_vm_readv": func() error {
			b := make([]byte, 8)
			_, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 1 << 20, Len: 8}}, 0)
			if errors.Is(err, unix.EFAULT) {
				return nil
			}
			return err
		},
		"chroot":          func() error { return chroot(outside) },
		"handle":          handle,
		"raw device":      func() error { return device(unix.S_IFBLK, "sda", 8, 0) },
		"raw virtio disk": disk,
		"memory":          func() error { return device(unix.S_IFCHR, "mem", 1, 1) },
		"kernel messages": func() error { return device(unix.S_IFCHR, "kmsg", 1, 11) },
		"fuse":            func() error { return device(unix.S_IFCHR, "fuse", 10, 229) },
		"kcore":           func() error { return read("/proc/kcore") },
		"keys":            func() error { return read("/proc/keys") },
		"timers":          func() error { return read("/proc/timer_list") },
		"firmware":        func() error { return list("/sys/firmware") },
		"scsi":            func() error { return list("/proc/scsi") },
		"host name":       func() error { return unix.Sethostname([]byte("other")) },

		"link": func() error { return exec.Command("ip", "link", "add", "br9", "type", "bridge").Run() },
	}
	for name, f := range map[string]func() error{
		"init_module":  call(unix.SYS_INIT_MODULE),
		"finit_module": call(unix.SYS_FINIT_MODULE, ^uintptr(0)),
		"kexec_load":   call(unix.SYS_KEXEC_LOAD, 0, 17),
		"bpf":          call(unix.SYS_BPF, 99),
		"perf":         call(unix.SYS_PERF_EVENT_OPEN),
		"userfaultfd":  call(unix.SYS_USERFAULTFD, 1<<20),
		"io_uring":     call(unix.SYS_IO_URING_SETUP),
		"add_key":      call(unix.SYS_ADD_KEY),
		"keyctl":       call(unix.SYS_KEYCTL, 0, ^uintptr(2)),
		"swapon":       call(unix.SYS_SWAPON),
		"acct":         call(unix.SYS_ACCT, 1),
		"reboot":       call(unix.SYS_REBOOT, 1),
		"syslog":       call(unix.SYS_SYSLOG, 3, 0, 1),
		"quotactl":     call(unix.SYS_QUOTACTL),
		"iopl":         call(unix.SYS_IOPL, 3),
		"clock":        call(unix.SYS_SETTIMEOFDAY, 1),
	} {
		all[name] = f
	}
	for _, path := range []string{
		"/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches",
		"/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run", "/sys/power/state",
		"/sys/fs/cgroup/*/release_agent", "/sys/fs/cgroup/*/cgroup.procs", "/sys/fs/cgroup/cgroup.procs",
		"/sys/fs/cgroup/*/*.max", "/sys/fs/cgroup/*/devices.allow", "/sys/module/*/parameters/*",
	} {
		files, err := filepath.Glob(path)
		if err != nil {
			panic(err)
		}
		for _, f := range files {
			all["write "+f] = func() error {
				file, err := os.OpenFile(f, os.O_WRONLY, 0)
				if err == nil {
					file.Close()
				}
				return err
			}
		}
	}
	return all
}

func clone(flags uintptr) func() error {
	return func() error {
		cmd := exec.Command("/bin/busybox", "true")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		return cmd.Run()
	}
}

func setns(path string, kind int) error {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, kind)
}

// chroot is the classic way out of a chroot: to leave the root behind the working directory.
func chroot(outside string) error {
	root, err := unix.Open("/", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	defer func() { _ = errors.Join(unix.Fchdir(root), unix.Chroot(".")) }()
	_ = os.Mkdir("/tmp/jail", 0o700)
	if err := unix.Chroot("/tmp/jail"); err != nil {
		return err
	}
	if err := unix.Fchdir(root); err != nil {
		return err
	}
	return unix.Access(strings.Repeat("../", 40)+outside[1:]+"/file", unix.F_OK)
}

// handle opens the root of the file system below by its number, as shocker did.
func handle() error {
	fd, err := unix.Open("/etc/hosts", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	opened, err := unix.OpenByHandleAt(fd, unix.NewFileHandle(1, []byte{2, 0, 0, 0, 0, 0, 0, 0}), unix.O_RDONLY)
	if err == nil || errors.Is(err, unix.ESTALE) {
		unix.Close(opened)
		return nil
	}
	return err
}

func device(kind uint32, name string, major, minor uint32) error {
	path := "/tmp/" + name
	if err := unix.Mknod(path, kind|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return err
	}
	defer os.Remove(path)
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err == nil || errors.Is(err, unix.ENXIO) {
		unix.Close(fd)
		return nil
	}
	return err
}

// disk opens the first of the machine's disks that the kernel tells of.
func disk() error {
	files, err := filepath.Glob("/sys/block/*/dev")
	if err != nil || len(files) == 0 {
		return os.ErrNotExist
	}
	data, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		return err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(data), "%d:%d", &major, &minor); err != nil {
		return err
	}
	return device(unix.S_IFBLK, "disk", major, minor)
}

// read fails if nothing is in a file.
func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	return err
}

// list fails if nothing is in a directory.
func list(path string) error {
	entries, err := os.ReadDir(path)
	if err == nil && len(entries) == 0 {
		err = os.ErrNotExist
	}
	return err
}
