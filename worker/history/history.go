// Package history records builds: what was asked for, what happened, and what came of it.
//
// # What there is
//
// A Store has a directory, in which there are a few files for each build, named by the build's ID: the record, a small
// document that is replaced as a whole, the log of all events, to which is only ever added, and what services have derived
// from these (attachments, named by their digests). Everything that the steps wrote is in the log; none of it is cut off, and
// none of it is kept in memory once it is in the file.
//
// # Life cycle
//
// Open reads the records. Wrap makes a worker.Builder one that records. A build is Running from the moment at which its
// Builder was called until this has returned. The log begins with the record as it is then. Watch gives the events of
// a build again, from the first to the last, while the build runs and after it has ended. Close ends everything; builds
// must have ended.
//
// Records that are too old or too many are removed, oldest first, unless they are pinned or running. With a record goes all
// that was kept for it.
//
// # Durability
//
// Nothing is synced: a power cut may lose the last seconds, and then the log ends with the last entry that is whole
// (entries have checksums), and a record that cannot be read is dropped with its log. What kill -9 leaves is complete up to
// the last tenth of a second. A build that is Running in a record that Open reads has Failed: the daemon ended.
//
// # Locks
//
// Store.mu guards the table of builds and what is in it; journal.mu guards what is on its way to one log. Neither is held
// during I/O. journal.mu may be taken while Store.mu is held, never the other way round.
package history

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/worker"
)

// What a Store keeps if its Options do not say.
const (
	DefaultMaxAge     = 48 * time.Hour
	DefaultMaxEntries = 50
)

// Errors of a Store, found with errors.Is.
var (
	ErrNotFound    = fmt.Errorf("no such build%w", silent{fs.ErrNotExist})
	ErrAmbiguous   = errors.New("more than one build matches")
	ErrRunning     = worker.ErrRunning
	ErrClosed      = errors.New("the history is closed")
	ErrDaemonEnded = errors.New("the daemon ended") // how a build ended that was running when the daemon did
)

// silent is an error without a text of its own.
type silent struct{ error }

func (silent) Error() string { return "" }

// Unwrap returns the error itself.
func (s silent) Unwrap() error { return s.error }

// Options are what a Store needs.
type Options struct {
	Dir string // the Store's own; made if need be
	// MaxAge is how long a record is kept after the build has ended; 0 stands for DefaultMaxAge, less for no limit.
	MaxAge time.Duration
	// MaxEntries is how many records of ended builds are kept; 0 stands for DefaultMaxEntries, less for no limit. Pinned
	// ones do not count.
	MaxEntries int
	// Errors are the forms in which services want the errors of builds back, by names of theirs: see Error.Form.
	Errors map[string]func(error) []byte
	// Digest is what BuildKit's clients know a vertex by, for the vertices of Watch to say the same; nil stands for one that is
	// made of the recipe key.
	Digest func(*solver.Vertex) digest.Digest
	// TraceParent returns the client's span that the build of a context is part of, as the header of that name of W3C's Trace
	// Context has it; nil if nobody traces.
	TraceParent func(context.Context) string
	Log         *slog.Logger // slog.Default() if nil
}

// A Store holds the history. It is safe for concurrent use.
type Store struct {
	opt Options

	mu      sync.Mutex // guards what follows, and the fields of every entry that say so
	entries map[string]*entry
	changed chan struct{} // closed and replaced when an entry comes, goes or changes
	rank    uint64        // of the last change
	gone    []departure   // the last removals, for Changes
	doomed  []*entry      // removed, but their files are still there

	nudge   chan struct{} // has a token while something is doomed
	purging chan struct{} // has a token while somebody deletes what is doomed

	still chan struct{} // closed by hush
	hush  func()
	done  <-chan struct{} // closed by Close
	stop  context.CancelFunc
	tasks sync.WaitGroup // the sweeper
}

// Open opens the history in opt.Dir. What it cannot read there it drops.
func Open(opt Options) (*Store, error) {
	if opt.MaxAge == 0 {
		opt.MaxAge = DefaultMaxAge
	}
	if opt.MaxEntries == 0 {
		opt.MaxEntries = DefaultMaxEntries
	}
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Store{
		opt: opt, entries: map[string]*entry{}, changed: make(chan struct{}),
		nudge: make(chan struct{}, 1), purging: make(chan struct{}, 1), still: make(chan struct{}), done: ctx.Done(), stop: stop,
	}
	s.hush = sync.OnceFunc(func() { close(s.still) })
	if err := s.load(); err != nil {
		stop()
		return nil, fmt.Errorf("opening the history: %w", err)
	}
	s.expire()
	s.tasks.Go(func() { s.sweep(ctx) })
	return s, nil
}

// Close ends what goes on in the background. Calls that wait return ErrClosed. It is idempotent.
func (s *Store) Close() error {
	s.stop()
	s.tasks.Wait()
	return nil
}

// changedLocked gives e the next rank, and wakes who waits for a change.
func (s *Store) changedLocked(e *entry) {
	s.rank++
	if e != nil {
		e.rank = s.rank
	}
	close(s.changed)
	s.changed = make(chan struct{})
}
