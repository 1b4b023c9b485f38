package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxUserFile bounds /etc/passwd and /etc/group, in bytes. The largest real ones, of sites with 100,000 accounts, have
// 8 MB.
const maxUserFile = 16 << 20

// ReadUsers reads /etc/passwd and /etc/group in root, which may have been made by an attacker: symbolic links stay
// inside the root, only regular files are opened, and what is larger than 16 MiB is an error, not read
// (CVE-2026-61712, GHSA-jpcc-p29g-p8mq).
func ReadUsers(root *os.File) (Users, error) {
	passwd, err := readInRoot(root, "etc/passwd")
	if err != nil {
		return Users{}, err
	}
	group, err := readInRoot(root, "etc/group")
	if err != nil {
		return Users{}, err
	}
	return Users{Passwd: passwd, Group: group}, nil
}

// readInRoot reads a regular file. It returns nil for one that does not exist.
func readInRoot(root *os.File, name string) ([]byte, error) {
	// O_PATH first: opening a FIFO would block, and opening a device can have an effect.
	fd, err := openat2(root, name, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening /%s: %w", name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("examining /%s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("reading /%s: not a regular file", name)
	}
	if st.Size > maxUserFile {
		return nil, fmt.Errorf("reading /%s: %d bytes exceed the limit of %d", name, st.Size, maxUserFile)
	}
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return nil, fmt.Errorf("opening /%s: %w", name, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxUserFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading /%s: %w", name, err)
	}
	if len(data) > maxUserFile {
		return nil, fmt.Errorf("reading /%s: it grew over the limit of %d bytes", name, maxUserFile)
	}
	return data, nil
}

func openat2(root *os.File, name string, flags uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(root.Fd()), name, &how)
		// EAGAIN: a rename elsewhere made the kernel unsure that the path stayed inside.
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		return fd, err
	}
}
