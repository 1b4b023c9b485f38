package run

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/snapshot"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/solver/run/signature"
)

// A download is the tree of an HTTP source while it is written. It is an httpsource.Sink.
type download struct {
	r         *Runner
	src       *op.HTTP
	algorithm digest.Algorithm
	hash      hash.Hash
	draft     *draft
	file      *os.File
	modified  time.Time

	report         func(solver.Status) // may be nil
	started        time.Time
	n, told, total int64 // bytes: written, reported, and to come as the server says
}

type statusKey struct{}

// WithStatus returns a context in which PinHTTP reports how far downloads are.
func WithStatus(ctx context.Context, report func(solver.Status)) context.Context {
	return context.WithValue(ctx, statusKey{}, report)
}

// StatusOf returns what WithStatus has put into ctx; nil if nobody wants to know.
func StatusOf(ctx context.Context) func(solver.Status) {
	f, _ := ctx.Value(statusKey{}).(func(solver.Status))
	return f
}

// tell reports how far the download is, now and then: what is small needs no word.
func (d *download) tell(done bool) {
	const step = 1 << 20
	if d.report == nil || (d.n-d.told < step && (!done || d.told == 0)) {
		return
	}
	d.told = d.n
	st := solver.Status{ID: d.src.Name, Action: "downloading", Current: d.n, Total: d.total, Started: d.started}
	if done {
		st.Ended = time.Now()
	}
	d.report(st)
}

func (r *Runner) newDownload(src *op.HTTP) *download {
	d := &download{r: r, src: src, algorithm: digest.SHA256}
	if src.Digest != "" {
		d.algorithm = src.Digest.Algorithm()
	}
	d.hash = d.algorithm.Hash()
	return d
}

// create makes the tree and the file in it, which is called src.Name.
func (d *download) create(ctx context.Context, modified time.Time) error {
	var err error
	if d.draft, err = d.r.newDraft(ctx, ""); err != nil {
		return err
	}
	// The name is a single component, and the tree is new.
	fd, err := unix.Openat(int(d.draft.root.Fd()), d.src.Name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("creating %q: %w", d.src.Name, err)
	}
	d.file, d.modified, d.started = os.NewFile(uintptr(fd), d.src.Name), modified, time.Now()
	return nil
}

// Write implements httpsource.Sink.
func (d *download) Write(p []byte) (int, error) {
	d.hash.Write(p)
	n, err := d.file.Write(p)
	d.n += int64(n)
	d.tell(false)
	return n, err
}

// Reset implements httpsource.Sink.
func (d *download) Reset() error {
	d.hash.Reset()
	d.n, d.told = 0, 0
	_, err := d.file.Seek(0, io.SeekStart)
	return errors.Join(err, d.file.Truncate(0))
}

// upload takes what a client sends.
func (d *download) upload(ctx context.Context, body io.Reader) error {
	if err := d.create(ctx, time.Time{}); err != nil {
		return err
	}
	_, err := io.CopyBuffer(d, body, make([]byte, 256<<10))
	return err
}

// commit gives the file its attributes and makes the tree a snapshot.
func (d *download) commit(ctx context.Context) (snapshot.ID, error) {
	d.tell(true)
	if err := d.verify(); err != nil {
		return "", err
	}
	perm := d.src.Perm & 0o7777
	if perm == 0 {
		perm = 0o600
	}
	fd := int(d.file.Fd())
	modified := d.modified
	if modified.IsZero() {
		modified = time.Unix(0, 0)
	}
	t := unix.Timeval{Sec: modified.Unix()} // what HTTP says is in seconds, and may be far outside of nanoseconds
	err := errors.Join(unix.Fchown(fd, d.src.UID, d.src.GID), unix.Fchmod(fd, perm), unix.Futimes(fd, []unix.Timeval{t, t}))
	if err := errors.Join(err, d.file.Close()); err != nil {
		return "", fmt.Errorf("finishing %q: %w", d.src.Name, err)
	}
	d.file = nil
	return d.draft.commit(ctx)
}

// verify checks the signature that the content has to have.
func (d *download) verify() error {
	s := d.src.Signature
	if s == nil {
		return nil
	}
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := signature.PGP(d.file, []byte(s.Signature), []byte(s.PublicKeys), signature.Policy{}); err != nil {
		return fmt.Errorf("verifying the signature of %s: %w", op.RedactURL(d.src.URL), err)
	}
	return nil
}

// discard throws away what has not been committed.
func (d *download) discard(ctx context.Context) {
	if d.file != nil {
		d.file.Close()
	}
	if d.draft != nil {
		d.draft.discard(ctx)
	}
}
