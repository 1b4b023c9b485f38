package logfile

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxbuild/boxbuild/executor"
)

// With a buffer, a disk that does not take anything holds nobody up: whole lines are lost once the buffer is full, the
// first are kept, and what comes when the disk works again is written. The disk is a pipe that nobody reads.
func TestBuffer(t *testing.T) {
	const limit = 64 << 10
	w, _ := start(t, executor.Log{Driver: "json-file", Buffer: limit})
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	disk := os.NewFile(uintptr(fds[0]), "disk")
	w.file.Close()
	w.file = os.NewFile(uintptr(fds[1]), "log") // blocks when it is full
	const lines, half = 10_000, 50
	for i := range lines {
		w.Write(1, fmt.Appendf(nil, "%06d %s", i, strings.Repeat("x", half)))
		w.Write(1, []byte(strings.Repeat("y", half)+"\n")) // a line that is lost is lost as a whole
	}
	closed := make(chan error)
	go func() { closed <- w.Close() }()
	var data []byte
	buf := make([]byte, 1<<20)
	for {
		n, err := disk.Read(buf)
		data = append(data, buf[:n]...)
		if err != nil {
			break
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	var numbers []int
	for _, l := range readLines(t, data) {
		var n int
		var x string
		if _, err := fmt.Sscanf(l.Log, "%06d %s\n", &n, &x); err != nil || x != strings.Repeat("x", half)+strings.Repeat("y", half) {
			t.Fatalf("a line is %q", l.Log)
		}
		numbers = append(numbers, n)
	}
	if !slices.IsSorted(numbers) {
		t.Error("lines are out of order")
	}
	kept := len(numbers)
	// What the pipe holds has been written; the buffer holds what its bytes allow, and no more.
	most := 2*limit/(110+entrySize) + 2*(64<<10)/180
	if kept < limit/(110+entrySize) || kept > most {
		t.Errorf("%d lines of %d are there, want at most %d", kept, lines, most)
	}
}

// A disk that keeps up loses nothing, whatever the buffer's size, and a line that is longer than it is taken.
func TestBufferAll(t *testing.T) {
	for _, driver := range []string{"json-file", "local"} {
		w, path := start(t, executor.Log{Driver: driver, Buffer: 1, MaxSize: 1 << 20, MaxFiles: 2})
		w.Write(1, []byte(strings.Repeat("a", 4096)+"\nend"))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(read(t, path)), "a"); n < 4096 {
			t.Errorf("%s: %d bytes of 4096 are there", driver, n)
		}
	}
}
