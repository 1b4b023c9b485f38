package network

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// report is a message of the kernel about a table or chain of that table.
func report(kind uint16, table string) []byte {
	attr := binary.NativeEndian.AppendUint16(nil, uint16(4+len(table)+1))
	attr = append(binary.NativeEndian.AppendUint16(attr, 1), table+"\x00"...)
	for len(attr)%4 > 0 {
		attr = append(attr, 0)
	}
	body := append([]byte{2, 0, 0, 0}, attr...)
	b := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	b = binary.NativeEndian.AppendUint16(b, unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	b = append(b, make([]byte, 10)...)
	return append(b, body...)
}

// Of the kernel's reports those of others' tables and chains matter, and those of the end of our own.
func TestReadReports(t *testing.T) {
	const own = "boxbuild_01234567"
	for _, c := range []struct {
		name          string
		data          []byte
		foreign, lost bool
	}{
		{"own table made", report(unix.NFT_MSG_NEWTABLE, own+"_run"), false, false},
		{"own table gone", report(unix.NFT_MSG_DELTABLE, own+"_run"), false, true},
		{"another chain", report(unix.NFT_MSG_NEWCHAIN, "filter"), true, false},
		{"another daemon", report(unix.NFT_MSG_NEWCHAIN, "boxbuild_01234568"), true, false},
		{"an element", report(unix.NFT_MSG_NEWSETELEM, "filter"), false, false},
		{"two", append(report(unix.NFT_MSG_NEWTABLE, "x"), report(unix.NFT_MSG_DELTABLE, own)...), true, true},
		{"cut", report(unix.NFT_MSG_NEWTABLE, "x")[:20], true, true},
	} {
		if foreign, lost := readReports(c.data, own); foreign != c.foreign || lost != c.lost {
			t.Errorf("%s: got %v, %v, want %v, %v", c.name, foreign, lost, c.foreign, c.lost)
		}
	}
}

// Whatever comes, it is read without going beyond it.
func FuzzReadReports(f *testing.F) {
	f.Add(report(unix.NFT_MSG_NEWCHAIN, "filter"))
	f.Fuzz(func(_ *testing.T, b []byte) { readReports(b, "boxbuild_") })
}
