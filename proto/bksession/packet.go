package bksession

import (
	"errors"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/boxbuild/boxbuild/proto/filesync"
	"github.com/boxbuild/boxbuild/solver/treehash"
)

// The messages of fsutil's protocol, which carries directories in BuildKit's sessions (fsutil/types/wire.proto). They are
// read and written here by hand: there is one for each file, and names of files need not be UTF-8.
//
// The sender sends a stat for each file, in the order of a walk, and an empty one after the last. The place of a stat is
// the ID of its file. The receiver asks for files by ID; the sender answers each with its bytes, mixed with those of
// others, and an empty message after the last. When the receiver has all it sends fin, and the sender answers so.
const (
	packetStat = iota
	packetReq
	packetData
	packetFin
	packetErr
)

// A packet is one message. data is part of the message that it was read from.
type packet struct {
	kind    uint64
	hasStat bool
	stat    []byte
	id      uint32
	data    []byte
}

var errPacket = errors.New("a malformed message")

// Fields of messages, by their numbers.
const (
	fieldType = 1
	fieldStat = 2
	fieldID   = 3
	fieldData = 4

	statPath  = 1
	statMode  = 2
	statSize  = 5
	statMTime = 6
	statLink  = 7
	statMajor = 8
	statMinor = 9
	statXattr = 10
)

// fields calls fn for each field of a message. num is the value of one that is a number, b that of one that has bytes.
func fields(m []byte, fn func(field int, num uint64, b []byte) error) error {
	for len(m) > 0 {
		field, kind, n := protowire.ConsumeTag(m)
		if n < 0 {
			return errPacket
		}
		m = m[n:]
		var num uint64
		var b []byte
		switch kind {
		case protowire.VarintType:
			num, n = protowire.ConsumeVarint(m)
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(m)
		default:
			n = protowire.ConsumeFieldValue(field, kind, m)
		}
		if n < 0 {
			return errPacket
		}
		m = m[n:]
		if err := fn(int(field), num, b); err != nil {
			return err
		}
	}
	return nil
}

func parsePacket(m []byte) (p packet, err error) {
	err = fields(m, func(field int, num uint64, b []byte) error {
		switch field {
		case fieldType:
			p.kind = num
		case fieldStat:
			p.hasStat, p.stat = true, b
		case fieldID:
			p.id = uint32(num)
		case fieldData:
			p.data = b
		}
		return nil
	})
	return p, err
}

// parseStat reads what a file is into an entry, whose path is relative yet. hardlink is the path of an earlier file that
// it is another name of.
func parseStat(m []byte) (e treehash.Entry, hardlink string, err error) {
	var mode uint32
	var major, minor uint64
	err = fields(m, func(field int, num uint64, b []byte) error {
		switch field {
		case statPath:
			e.Path = string(b)
		case statMode:
			mode = uint32(num)
		case statSize:
			e.Size = int64(num)
		case statMTime:
			e.MTime = time.Unix(0, int64(num))
		case statLink:
			e.Link = string(b)
		case statMajor:
			major = num
		case statMinor:
			minor = num
		case statXattr:
			k, v, err := parseXattr(b)
			if err != nil {
				return err
			}
			if e.Xattr == nil {
				e.Xattr = map[string][]byte{}
			}
			e.Xattr[k] = v
		}
		return nil
	})
	if e.Mode = filesync.StMode(fs.FileMode(mode)); e.IsRegular() {
		hardlink, e.Link = e.Link, ""
	}
	if t := e.Mode & unix.S_IFMT; t == unix.S_IFCHR || t == unix.S_IFBLK {
		e.Rdev = unix.Mkdev(uint32(major), uint32(minor))
	}
	return e, hardlink, err
}

func parseXattr(m []byte) (k string, v []byte, err error) {
	v = []byte{}
	err = fields(m, func(field int, _ uint64, b []byte) error {
		switch field {
		case 1:
			k = string(b)
		case 2:
			v = append([]byte{}, b...)
		}
		return nil
	})
	return k, v, err
}

func appendNumber(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendText(b []byte, field protowire.Number, v string) []byte {
	if v == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// newPacket makes a message without a stat.
func newPacket(kind uint64, id uint32, data []byte) raw {
	b := appendNumber(nil, fieldType, kind)
	b = appendNumber(b, fieldID, uint64(id))
	if len(data) > 0 {
		b = protowire.AppendBytes(protowire.AppendTag(b, fieldData, protowire.BytesType), data)
	}
	return b
}
