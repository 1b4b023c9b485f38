// Package volume keeps the volumes of the daemon: directories that outlive the containers that write to them.
//
// # Life cycle
//
//	Create, or Ensure ──> volume ──Mount──> in use ──Unmount──> volume ──Remove──> gone
//	                         └── Hold, Drop: a container that exists, running or not, keeps it from being removed
//
// A volume exists when meta.db has its record, which is written after its directory was made. What is removed gets another
// name first, is deleted when the record is gone, and is swept at start; with the record still there it gets its name back. A
// directory without a record is removed if nothing is in it. If there is, it is nobody's to delete, as where meta.db was
// lost: a volume that is made under its name has what is in it. A volume with mount options (nfs, tmpfs, a bind) is mounted
// on its directory while a container uses it, once for all of them, and stays so when the daemon goes, since its
// containers run on.
//
// Who holds and who uses a volume is not stored: containers say so again when the daemon starts, and Open ends with
// nothing held. Settle, which is called after that, unmounts what nobody uses.
//
// Locks: Service.mu guards the tables and is held for no I/O but a look at meta.db; volume.turn, one for each volume, is
// held while it is made, mounted, unmounted or removed, and is taken before Service.mu.
package volume

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/worker"
)

// AnonymousLabel marks volumes that nobody named, as docker does.
const AnonymousLabel = "com.docker.volume.anonymous"

// driver is the only one there is.
const driver = "local"

// bucket has the records, as JSON, by name.
var bucket = []byte("volumes.v1")

// A record is what is stored of a volume.
type record struct {
	Created time.Time
	Labels  map[string]string
	Options map[string]string
}

// A vol is a volume while the daemon runs.
type vol struct {
	turn chan struct{} // a lock that can be waited for with a context; guards mounting, making and removing
	// What follows is guarded by Service.mu.
	record
	holders map[string]bool // containers that name it
	users   map[string]bool // of those, the ones that have it mounted, and whether an event has told of it
	gone    bool            // it is not made yet, or removed
	refs    int             // calls that have it; there is one vol of a name as long as there are any
}

// A Service keeps volumes. It is safe for concurrent use.
type Service struct {
	db     *bbolt.DB
	dir    string
	events worker.Events
	now    func() time.Time

	mu      sync.Mutex
	volumes map[string]*vol
}

var _ worker.Volumes = (*Service)(nil)

// Open opens the volumes whose records are in db, with synced transactions, and whose directories are in dir. Events are
// reported to ev, which may be nil. The caller closes db after the last call.
func Open(db *bbolt.DB, dir string, ev worker.Events) (*Service, error) {
	s := &Service{db: db, dir: dir, events: ev, now: time.Now, volumes: make(map[string]*vol)}
	if err := os.MkdirAll(dir, 0o701); err != nil {
		return nil, fmt.Errorf("opening the volumes: %w", err)
	}
	// Nothing is written: that is synced, for which a daemon that starts would wait.
	err := db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		if b == nil {
			return nil
		}
		return b.ForEach(func(name, raw []byte) error {
			v := newVol()
			if err := json.Unmarshal(raw, &v.record); err != nil {
				return fmt.Errorf("the record of volume %q: %w", name, err)
			}
			s.volumes[string(name)] = v
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("opening the volumes: %w", err)
	}
	return s, s.sweep()
}

func newVol() *vol {
	return &vol{turn: make(chan struct{}, 1), holders: make(map[string]bool), users: make(map[string]bool)}
}

// gonePrefix begins the names of directories that are being removed. Those of volumes begin otherwise.
const gonePrefix = ".gone-"

// sweep ends what was going on when the daemon was killed.
func (s *Service) sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("opening the volumes: %w", err)
	}
	for _, e := range entries {
		name, going := strings.CutPrefix(e.Name(), gonePrefix)
		known := s.volumes[name] != nil
		switch {
		case going && known: // it was not removed: its record is there
			err = os.Rename(s.gone(name), filepath.Join(s.dir, name))
		case going:
			err = os.RemoveAll(s.gone(name))
		case known, !e.IsDir():
		default:
			err = s.dropEmpty(name)
		}
		if err != nil {
			return fmt.Errorf("removing what is left of volume %s: %w", name, err)
		}
	}
	return nil
}

// gone is where the directory of a volume is while it is being removed.
func (s *Service) gone(name string) string { return filepath.Join(s.dir, gonePrefix+name) }

// dropEmpty removes the directory of a volume that there is not, unless something is in it.
func (s *Service) dropEmpty(name string) error {
	if err := s.unmount(name); err != nil {
		return err
	}
	for _, dir := range []string{s.path(name), filepath.Join(s.dir, name)} {
		if err := unix.Rmdir(dir); errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) {
			return nil
		} else if err != nil && !errors.Is(err, unix.ENOENT) {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
	return nil
}

// Settle unmounts what no container uses. It is called once the containers have said what they use.
func (s *Service) Settle(ctx context.Context) error {
	var errs []error
	for _, name := range s.names() {
		err := s.locked(ctx, name, func(v *vol) error {
			s.mu.Lock()
			idle := len(v.users) == 0
			s.mu.Unlock()
			if !idle {
				return nil
			}
			return s.unmount(name)
		})
		if !errdefs.IsNotFound(err) { // somebody may have removed it
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *Service) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.volumes))
}

// nameRule is docker's for what users name.
var nameRule = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// CheckName returns an error unless name can be that of a volume.
func CheckName(name string) error {
	switch {
	case len(name) == 1:
		return worker.Invalidf("volume name is too short, names should be at least two alphanumeric characters")
	case len(name) > 255 || !nameRule.MatchString(name):
		return worker.Invalidf("%q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. "+
			"If you intended to pass a host directory, use absolute path", name)
	}
	return nil
}

// Create implements worker.Volumes. A volume that exists is returned as it is, whatever the request says of it.
func (s *Service) Create(ctx context.Context, req *volume.CreateRequest) (*volume.Volume, error) {
	out, _, err := s.Ensure(ctx, req)
	return out, err
}

// Ensure is Create that says whether the volume was made.
func (s *Service) Ensure(ctx context.Context, req *volume.CreateRequest) (_ *volume.Volume, created bool, err error) {
	name, labels := req.Name, maps.Clone(req.Labels)
	if name == "" {
		var id [32]byte
		_, _ = rand.Read(id[:]) // never fails
		name = hex.EncodeToString(id[:])
		if labels == nil {
			labels = make(map[string]string)
		}
		labels[AnonymousLabel] = ""
	}
	if err := checkRequest(name, req); err != nil {
		return nil, false, err
	}
	v := s.grab(name)
	defer s.release(name, v)
	err = s.turn(ctx, v, func() error {
		s.mu.Lock()
		there := !v.gone
		s.mu.Unlock()
		if there {
			return nil
		}
		created = true
		return s.make(name, v, record{Created: s.now().UTC(), Labels: labels, Options: req.DriverOpts})
	})
	if err != nil {
		return nil, false, err
	}
	if created {
		s.publish(name, events.ActionCreate, map[string]string{"driver": driver})
	}
	out, err := s.Inspect(ctx, name)
	return out, created, err
}

// checkRequest refuses what no volume can be made of.
func checkRequest(name string, req *volume.CreateRequest) error {
	if req.ClusterVolumeSpec != nil {
		return worker.Invalidf("cluster volumes need a swarm")
	}
	err := CheckName(name)
	if d := req.Driver; d != "" && d != driver {
		err = worker.NotFoundf("error looking up volume plugin %s: plugin \"%s\" not found", d, d)
	}
	if err == nil {
		err = checkOptions(req.DriverOpts)
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	return nil
}

// make makes the directory, if there is none, and then the record. The volume's turn is held.
func (s *Service) make(name string, v *vol, rec record) error {
	data := s.path(name)
	err := os.MkdirAll(filepath.Dir(data), 0o701)
	if err == nil {
		if err = os.Mkdir(data, 0o755); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err == nil {
		var raw []byte
		if raw, err = json.Marshal(rec); err == nil {
			err = s.db.Update(func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucketIfNotExists(bucket)
				if err != nil {
					return err
				}
				return b.Put([]byte(name), raw)
			})
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("creating volume %s: %w", name, err), s.dropEmpty(name))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v.record, v.gone = rec, false
	return nil
}

// grab returns the vol of that name, for release. It may be one that is not made yet.
func (s *Service) grab(name string) *vol {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volumes[name]
	if v == nil {
		v = newVol()
		v.gone = true
		s.volumes[name] = v
	}
	v.refs++
	return v
}

func (s *Service) release(name string, v *vol) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.refs--; v.refs == 0 && v.gone {
		delete(s.volumes, name)
	}
}

// path is the directory that containers see.
func (s *Service) path(name string) string { return filepath.Join(s.dir, name, "_data") }

// turn runs f while nobody else makes, mounts, unmounts or removes the volume.
func (s *Service) turn(ctx context.Context, v *vol, f func() error) error {
	select {
	case v.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-v.turn }()
	return f()
}

// locked is turn for the volume of that name; NotFound if there is none.
func (s *Service) locked(ctx context.Context, name string, f func(v *vol) error) error {
	v := s.grab(name)
	defer s.release(name, v)
	return s.turn(ctx, v, func() error {
		s.mu.Lock()
		gone := v.gone
		s.mu.Unlock()
		if gone {
			return noSuch(name)
		}
		return f(v)
	})
}

func noSuch(name string) error { return worker.NotFoundf("get %s: no such volume", name) }

// Inspect implements worker.Volumes.
func (s *Service) Inspect(_ context.Context, name string) (*volume.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volumes[name]
	if v == nil || v.gone {
		return nil, noSuch(name)
	}
	return s.describeLocked(name, v), nil
}

// describeLocked is the volume as the API has it.
func (s *Service) describeLocked(name string, v *vol) *volume.Volume {
	return &volume.Volume{
		Name: name, Driver: driver, Scope: "local", Mountpoint: s.path(name), CreatedAt: v.Created.Format(time.RFC3339),
		Labels: maps.Clone(v.Labels), Options: maps.Clone(v.Options),
	}
}

// Remove implements worker.Volumes.
func (s *Service) Remove(ctx context.Context, name string, force bool) error {
	err := s.locked(ctx, name, func(v *vol) error { return s.remove(name, v) })
	if force && errdefs.IsNotFound(err) {
		return nil
	}
	if err == nil {
		s.publish(name, events.ActionDestroy, map[string]string{"driver": driver})
	}
	return err
}

// remove removes the record and then the files. The volume's turn is held.
func (s *Service) remove(name string, v *vol) error {
	s.mu.Lock()
	holders := slices.Sorted(maps.Keys(v.holders))
	v.gone = len(holders) == 0 // nobody can hold it from here on
	s.mu.Unlock()
	if len(holders) > 0 {
		return worker.Conflictf("remove %s: volume is in use - [%s]", name, strings.Join(holders, ", "))
	}
	if err := s.forget(name); err != nil {
		s.mu.Lock()
		v.gone = false
		s.mu.Unlock()
		return fmt.Errorf("removing volume %s: %w", name, err)
	}
	if err := os.RemoveAll(s.gone(name)); err != nil {
		return fmt.Errorf("removing volume %s: %w", name, err) // the rest is swept at the next start
	}
	return nil
}

// forget removes the record of a volume, and puts its directory away. With an error both are as they were.
func (s *Service) forget(name string) error {
	if err := s.unmount(name); err != nil {
		return err
	}
	dir, gone := filepath.Join(s.dir, name), s.gone(name)
	err := os.RemoveAll(gone) // what an earlier removal could not
	if err == nil {
		if err = os.Rename(dir, gone); errors.Is(err, fs.ErrNotExist) {
			err = nil // somebody else has removed it
		}
	}
	if err != nil {
		return err
	}
	if err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Delete([]byte(name)) }); err != nil {
		if rerr := os.Rename(gone, dir); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
		return err
	}
	return nil
}

// publish reports what happened to a volume.
func (s *Service) publish(name string, a events.Action, attrs map[string]string) {
	if s.events != nil {
		s.events.Publish(events.Message{Type: events.VolumeEventType, Action: a, Actor: events.Actor{ID: name, Attributes: attrs}})
	}
}

// Hold says that a container names the volume, running or not: it cannot be removed until Drop.
func (s *Service) Hold(name, container string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volumes[name]
	if v == nil || v.gone {
		return noSuch(name)
	}
	v.holders[container] = true
	return nil
}

// Drop ends what Hold began. It does nothing if there is no such volume.
func (s *Service) Drop(name, container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.volumes[name]; v != nil {
		delete(v.holders, container)
	}
}

// Holders returns the containers that name the volume, sorted.
func (s *Service) Holders(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.volumes[name]; v != nil && !v.gone {
		return slices.Sorted(maps.Keys(v.holders))
	}
	return nil
}

// size returns the bytes that the files below dir take.
func size(dir string) (int64, error) {
	var sum int64
	seen := make(map[[2]uint64]bool)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was removed meanwhile
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil //nolint:nilerr // likewise
		}
		id := [2]uint64{st.Dev, st.Ino}
		if st.Nlink > 1 && !d.IsDir() {
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		if d.Type().IsRegular() {
			sum += st.Size
		}
		return nil
	})
	return sum, err
}

// byName orders volumes.
func byName(a, b volume.Volume) int { return cmp.Compare(a.Name, b.Name) }
