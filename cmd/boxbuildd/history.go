package main

import (
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot/blob"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/progress"
	"github.com/boxbuild/boxbuild/worker/api/buildkit/records"
	"github.com/boxbuild/boxbuild/worker/api/native"
	"github.com/boxbuild/boxbuild/worker/history"
)

// openHistory opens the records of builds. Each service has their errors back as it tells its clients of them.
func (w *wiring) openHistory() (err error) {
	w.history, err = history.Open(history.Options{
		Dir:    w.path("history"),
		MaxAge: time.Duration(w.cfg.History.MaxAge), MaxEntries: int(w.cfg.History.MaxEntries),
		Errors: map[string]func(error) []byte{
			records.ErrorForm: records.EncodeError,
			native.ErrorForm:  native.EncodeError,
		},
		Digest: progress.Digest, TraceParent: records.TraceParent, Log: w.log,
	})
	if err != nil {
		return err
	}
	w.onClose(w.history.Close)
	w.records = records.New(records.Options{History: w.history, Blobs: w.blobs, Log: w.log})
	return nil
}

// hasBlob says whether the store has a blob.
func (w *wiring) hasBlob(d digest.Digest) bool {
	return w.blobs.Has(blob.Descriptor{Digest: d, Size: blob.UnknownSize})
}
