// Package hugepage has the kernel keep a program in memory in huge pages.
//
// A process maps the code that it comes by in pieces of 64 KiB, at a page fault each, and at its end, or when it executes
// another program, has to give back every page of them. With huge pages the code of a program is a handful of entries.
package hugepage

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Size is that of a huge page, in bytes, where pages have 4 KiB. Elsewhere Collapse has no effect.
const Size = 2 << 20

// madvCollapse is MADV_COLLAPSE (Linux 6.1).
const madvCollapse = 25

// Collapse moves what a file in memory (memfd_create) has into huge pages, as far as it fills them. It is the same file with the
// same content before and after, sealed or not; processes that have it mapped see nothing of it. It takes some 3 ms for each page.
// An error, such as on a kernel that cannot do it, means that the file is as it was, in part or as a whole.
func Collapse(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("examining %s: %w", f.Name(), err)
	}
	n := uintptr(fi.Size()) / Size * Size
	if n == 0 {
		return nil
	}
	// Only a range that begins at a multiple of Size can be collapsed.
	room, err := unix.MmapPtr(-1, 0, nil, n+Size, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("making room for %s: %w", f.Name(), err)
	}
	defer func() { _ = unix.MunmapPtr(room, n+Size) }() // with what is mapped in it
	at := unsafe.Add(room, Size-uintptr(room)%Size)
	if _, err := unix.MmapPtr(int(f.Fd()), 0, at, n, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_FIXED); err != nil {
		return fmt.Errorf("mapping %s: %w", f.Name(), err)
	}
	var errs []error
	for done := uintptr(0); done < n; done += Size {
		b := unsafe.Slice((*byte)(unsafe.Add(at, done)), Size)
		if err := unix.Madvise(b, madvCollapse); err != nil {
			errs = append(errs, fmt.Errorf("collapsing %s at %d: %w", f.Name(), done, err))
		}
	}
	return errors.Join(errs...)
}
