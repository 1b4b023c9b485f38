package cachedb

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/solver"
)

// The buckets map keys to values as below. A change of format is a new name: old records are then never read.
//
// A value begins with the CRC-32C, 4 bytes in little-endian order, of the key and what follows. Numbers are varints, and
// strings have their length before them.
//
//	records: created (seconds since 1970), the number of results, results, recipe (32 bytes), duration (ns), name, document
//	uses:    last used (seconds since 1970), uses
//
// Uses are apart, as they change with every hit and are small, while documents never do and are not.
var (
	recordsBucket = []byte("solver-records-1")
	usesBucket    = []byte("solver-uses-1")
)

var (
	errDamaged = errors.New("bad checksum or format")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// seal fills in the checksum of a value whose first 4 bytes are free.
func seal(k solver.Key, v []byte) []byte {
	binary.LittleEndian.PutUint32(v, checksum(k, v[4:]))
	return v
}

func checksum(k solver.Key, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(k[:], castagnoli), castagnoli, payload)
}

// open checks the checksum and returns what comes after it.
func open(k solver.Key, v []byte) (*decoder, error) {
	if len(v) < 4 || binary.LittleEndian.Uint32(v) != checksum(k, v[4:]) {
		return nil, errDamaged
	}
	return &decoder{rest: v[4:]}, nil
}

func encodeRecord(k solver.Key, rec *Record) []byte {
	v := make([]byte, 4, 128+len(rec.Document))
	v = binary.AppendVarint(v, rec.Created.Unix())
	v = binary.AppendUvarint(v, uint64(len(rec.Results)))
	for _, r := range rec.Results {
		v = appendString(v, string(r))
	}
	v = append(v, rec.Recipe[:]...)
	v = binary.AppendVarint(v, int64(rec.Duration))
	v = appendString(v, rec.Name)
	v = appendString(v, rec.Document)
	return seal(k, v)
}

func appendString(v []byte, s string) []byte {
	return append(binary.AppendUvarint(v, uint64(len(s))), s...)
}

// How much of a record is to be decoded.
const (
	resultsOnly = false
	all         = true
)

func decodeRecord(k solver.Key, v []byte, everything bool) (Record, error) {
	rec := Record{Key: k}
	d, err := open(k, v)
	if err != nil {
		return rec, err
	}
	rec.Created = time.Unix(d.varint(), 0)
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		return rec, errDamaged
	}
	rec.Results = make([]solver.Result, n)
	for i := range rec.Results {
		rec.Results[i] = solver.Result(d.string())
	}
	if everything {
		copy(rec.Recipe[:], d.bytes(uint64(len(rec.Recipe))))
		rec.Duration = time.Duration(d.varint())
		rec.Name = d.string()
		rec.Document = d.string()
	}
	if d.bad || everything && len(d.rest) > 0 {
		return rec, errDamaged
	}
	return rec, nil
}

func encodeUse(k solver.Key, last time.Time, uses int) []byte {
	v := make([]byte, 4, 24)
	v = binary.AppendVarint(v, last.Unix())
	v = binary.AppendUvarint(v, uint64(uses))
	return seal(k, v)
}

func decodeUse(k solver.Key, v []byte) (last time.Time, uses int, err error) {
	d, err := open(k, v)
	if err != nil {
		return time.Time{}, 0, err
	}
	last = time.Unix(d.varint(), 0)
	uses = int(d.uvarint())
	if d.bad {
		return time.Time{}, 0, errDamaged
	}
	return last, uses, nil
}

// readRecord returns the record of k with its uses: solver.ErrMiss if there is none, errDamaged if it is damaged.
func readRecord(tx *bbolt.Tx, k solver.Key) (Record, error) {
	v := tx.Bucket(recordsBucket).Get(k[:])
	if v == nil {
		return Record{Key: k}, solver.ErrMiss
	}
	rec, err := decodeRecord(k, v, all)
	if err != nil {
		return Record{Key: k}, err
	}
	// Uses that are damaged cost a record some of its worth, and no more.
	rec.LastUsed, rec.Uses, err = decodeUse(k, tx.Bucket(usesBucket).Get(k[:]))
	if err != nil {
		rec.LastUsed, rec.Uses = rec.Created, 0
	}
	return rec, nil
}

// A decoder reads a value. After bad is set, what it returns means nothing. What it returns does not share the memory
// of the value, which is the file's.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) varint() int64 {
	x, n := binary.Varint(d.rest)
	d.skip(n)
	return x
}

func (d *decoder) uvarint() uint64 {
	x, n := binary.Uvarint(d.rest)
	d.skip(n)
	return x
}

func (d *decoder) skip(n int) {
	if n <= 0 {
		d.bad, d.rest = true, nil
		return
	}
	d.rest = d.rest[n:]
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) string() string { return string(d.bytes(d.uvarint())) }
