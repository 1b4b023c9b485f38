package cachedb

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/boxbuild/boxbuild/solver"
)

// A record comes back as it was written, up to the second, and whatever is read otherwise is damage and no panic.
func FuzzRecord(f *testing.F) {
	f.Add([]byte("key"), "a\nb", "name", "doc", int64(5), []byte("junk"))
	f.Add([]byte{}, "", "", strings.Repeat("x", 1000), int64(-1), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, key []byte, results, name, doc string, n int64, junk []byte) {
		rec := Record{
			Record:   solver.Record{Document: doc, Name: name, Duration: time.Duration(n)},
			Created:  time.Unix(n%1e12, 0),
			LastUsed: time.Unix(n%1e11, 0),
			Uses:     int(n & 0xffff),
			Results:  []solver.Result{},
		}
		copy(rec.Key[:], key)
		copy(rec.Recipe[:], junk)
		for line := range strings.Lines(results) {
			rec.Results = append(rec.Results, solver.Result(line))
		}
		got, err := decodeRecord(rec.Key, encodeRecord(rec.Key, &rec), all)
		if err == nil {
			got.LastUsed, got.Uses, err = decodeUse(rec.Key, encodeUse(rec.Key, rec.LastUsed, rec.Uses))
		}
		if err != nil || !reflect.DeepEqual(got, rec) {
			t.Errorf("got %+v, %v, want %+v", got, err, rec)
		}
		// With the right checksum but any content there is still no panic, and no huge allocation.
		sealed := seal(rec.Key, append(make([]byte, 4), junk...))
		decodeRecord(rec.Key, sealed, all)
		decodeRecord(rec.Key, sealed, resultsOnly)
		decodeUse(rec.Key, sealed)
		if _, err := decodeRecord(rec.Key, junk, all); err == nil {
			t.Error("junk is a record")
		}
	})
}
