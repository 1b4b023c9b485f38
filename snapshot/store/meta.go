package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
)

// metaVersion is raised when a snapshot's directory can no longer be understood by what is here. Snapshots of another
// version are removed when the store is opened: they are a cache.
const metaVersion = 1

// meta is what the file of that name holds, as JSON.
type meta struct {
	Version int         `json:"version"`
	Parent  snapshot.ID `json:"parent,omitempty"`
	Created int64       `json:"created"` // nanoseconds since 1970; with the ID it tells two snapshots of one name apart
	Size    int64       `json:"size"`    // bytes; -1 if the file usage has it
	Inodes  int64       `json:"inodes"`
	// Delta is what the snapshot is a copy of; nil for none.
	Delta *snapshot.Delta `json:"delta,omitempty"`
	Marks
}

// write writes the meta of the snapshot in dir. A meta is written once, into a draft, so it need not be replaced
// atomically.
func (m *meta) write(dir string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding meta: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "meta"), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing meta: %w", err)
	}
	return nil
}

// readMeta reads the meta of the snapshot in the directory name below dir, and the time of its last use.
func readMeta(dir *os.File, name string, buf []byte) (m meta, used time.Time, err error) {
	// Not by way of os.File: this is done for each snapshot when a store is opened, and the poller, finalizer and path
	// would be half of the time.
	path := name + "/meta"
	fd, err := unix.Openat(int(dir.Fd()), path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return m, used, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	n, err := unix.Read(fd, buf)
	if err != nil {
		return m, used, &os.PathError{Op: "read", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return m, used, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := json.Unmarshal(buf[:n], &m); err != nil {
		return m, used, fmt.Errorf("decoding %s: %w", path, err)
	}
	switch {
	case m.Version != metaVersion:
		return m, used, fmt.Errorf("decoding %s: version %d, want %d", path, m.Version, metaVersion)
	case m.Parent != "" && !valid(string(m.Parent)), m.Parent == snapshot.ID(name), m.Size < -1, m.Inodes < -1:
		return m, used, fmt.Errorf("decoding %s: %w", path, errDamaged)
	}
	return m, time.Unix(st.Mtim.Unix()), nil
}

var errDamaged = errors.New("damaged")

// writeUsed makes t the time of the last use of a snapshot.
func writeUsed(dir string, t time.Time) error {
	return os.Chtimes(filepath.Join(dir, "meta"), time.Time{}, t)
}

// writeUsage writes the file usage of a snapshot. If the process is killed in between, what is there does not end in a
// newline and is not believed.
func writeUsage(dir string, u usage) error {
	return os.WriteFile(filepath.Join(dir, "usage"), fmt.Appendf(nil, "%d %d\n", u.bytes, u.inodes), 0o600)
}

func readUsage(dir string) (u usage, err error) {
	f, err := os.Open(filepath.Join(dir, "usage"))
	if err != nil {
		return u, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return u, err
	}
	var end byte
	if _, err := fmt.Sscanf(string(b), "%d %d%c", &u.bytes, &u.inodes, &end); err != nil {
		return u, fmt.Errorf("decoding %s: %w", f.Name(), err)
	}
	if end != '\n' || u.bytes < 0 || u.inodes < 0 {
		return u, fmt.Errorf("decoding %s: %w", f.Name(), errDamaged)
	}
	return u, nil
}
