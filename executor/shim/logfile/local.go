package logfile

import "encoding/binary"

// appendLocal appends e in the format of Docker's driver local: its length as four bytes, big-endian, a message of
// protocol buffers, and its length again, so that a file can be read from its end.
//
//	message LogEntry {
//	  string source = 1; int64 time_nano = 2; bytes line = 3; bool partial = 4;
//	  PartialLogEntryMetadata partial_log_metadata = 5; // bool last = 1; string id = 2; int32 ordinal = 3
//	}
func appendLocal(b []byte, e *entry) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = appendBytes(b, 1, []byte(e.stream))
	b = binary.AppendUvarint(append(b, 2<<3), uint64(e.at.UnixNano()))
	b = appendBytes(b, 3, e.text)
	if e.partial {
		b = append(b, 4<<3, 1)
	}
	if e.partial || e.number > 0 {
		var m []byte
		if !e.partial {
			m = append(m, 1<<3, 1)
		}
		m = appendBytes(m, 2, []byte(e.id))
		m = binary.AppendUvarint(append(m, 3<<3), uint64(e.number+1))
		b = appendBytes(b, 5, m)
	}
	n := uint32(len(b) - start - 4)
	binary.BigEndian.PutUint32(b[start:], n)
	return binary.BigEndian.AppendUint32(b, n)
}

// appendBytes appends a field of wire type 2, which is left out when it is empty.
func appendBytes(b []byte, field byte, p []byte) []byte {
	if len(p) == 0 {
		return b
	}
	b = binary.AppendUvarint(append(b, field<<3|2), uint64(len(p)))
	return append(b, p...)
}
