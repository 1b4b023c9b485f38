package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/boxbuild/boxbuild/snapshot"
)

// Layers of images for Windows have files below "Files", registry hives below "Hives" (what a layer changes of them is
// merged by Windows) and, in bases, a system for virtual machines below "UtilityVM". Records of PAX headers say of a file
// what only Windows knows. Snapshots hold what is below "Files", as if it were an image for Linux.
const (
	windowsFiles = "Files/"

	recordFileAttr     = "MSWINDOWS.fileattr"
	recordSecurity     = "MSWINDOWS.rawsd"
	recordCreationTime = "LIBARCHIVE.creationtime"

	// The values of FILE_ATTRIBUTE_DIRECTORY and FILE_ATTRIBUTE_ARCHIVE.
	attrDirectory = "16"
	attrArchive   = "32"

	// Windows' readers of layers, and libarchive, expect the file's type among the bits of the mode.
	modeDirectory = 1 << 14
	modeRegular   = 1 << 15
)

// Security descriptors of what is made here, self-relative and in base64: owned by the administrators (BA) and the group
// of the system (SY), which may do all; users (BU) may read and execute. They are what BuildKit gives.
const (
	// securityDirectory is O:BAG:SYD:(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;;FA;;;BA)(A;OICIIO;GA;;;CO)(A;OICI;0x1200a9;;;BU)
	// (A;CI;LC;;;BU)(A;CI;DC;;;BU): in a directory users may also make files and directories.
	securityDirectory = "AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgCoAAcAAAAAAxgA/wEfAAECAAAAAAAFIAAAACACAAAA" +
		"AxQA/wEfAAEBAAAAAAAFEgAAAAAAGAD/AR8AAQIAAAAAAAUgAAAAIAIAAAALFAAAAAAQAQEAAAAAAAMAAAAAAAMYAKkAEgABAgAAAAAABSAAAAAhAgAA" +
		"AAIYAAQAAAABAgAAAAAABSAAAAAhAgAAAAIYAAIAAAABAgAAAAAABSAAAAAhAgAA"
	// securityFile is O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU).
	securityFile = "AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgBMAAMAAAAAABgA/wEfAAECAAAAAAAFIAAAACACAAAA" +
		"ABQA/wEfAAEBAAAAAAAFEgAAAAAAGACpABIAAQIAAAAAAAUgAAAAIQIAAA=="
)

// ErrNotWindows says that a layer has not the form that layers of images for Windows have. Images for Windows that were
// built from nothing on Linux have such layers: they are for taking files out of.
var ErrNotWindows = errors.New("layer has no Windows form")

// windowsPrefix begins the ID of each snapshot that a layer for Windows was applied to in that form; see WindowsID.
const windowsPrefix = "windows"

// WindowsID is the ID of the snapshot that the topmost layer of a chain for Windows is applied to with Options.Windows. The
// form is part of the name: the same blobs unpacked as layers for Linux are another tree.
func WindowsID(chain digest.Digest) snapshot.ID {
	return snapshot.ID(windowsPrefix + chain.Encoded()[:maxID-len(windowsPrefix)])
}

// maxID is the length of the longest ID that a snapshot can have.
const maxID = 64

// IsWindows says whether what id adds to its parent is, as a layer, one for Windows: it or one that is below it was
// unpacked from such a layer. Snapshots that are built on a base for Windows need no mark for that, and neither do copies of
// differences that are laid over one.
func IsWindows(ctx context.Context, sn snapshot.Snapshotter, id snapshot.ID) (bool, error) {
	for id != "" {
		if len(id) == maxID && strings.HasPrefix(string(id), windowsPrefix) {
			return true, nil
		}
		info, err := sn.Stat(ctx, id)
		if err != nil {
			return false, err
		}
		id = info.Parent
	}
	return false, nil
}

// windowsEntry makes of an entry of a layer for Windows the one that a snapshot gets, and says whether it gets one.
func (a *applier) windowsEntry(hdr *tar.Header) bool {
	top, _, _ := strings.Cut(hdr.Name, "/")
	if top == "Files" || top == "Hives" || top == "UtilityVM" {
		a.isWindows = true
	}
	name, ok := strings.CutPrefix(hdr.Name, windowsFiles)
	if !ok {
		return false
	}
	hdr.Name = name
	// Targets of symlinks have the prefix where BuildKit made the layer.
	hdr.Linkname = strings.TrimPrefix(hdr.Linkname, windowsFiles)
	return true
}

// writeWindowsTop writes the entries that each layer for Windows begins with. That they are not younger than 1970 keeps the
// bytes of a layer a matter of its files alone.
func writeWindowsTop(tw *tar.Writer) error {
	for _, name := range []string{"Hives", "Files"} {
		hdr := &tar.Header{Typeflag: tar.TypeDir, Name: name, ModTime: time.Unix(0, 0)}
		describeWindows(hdr)
		if err := tw.WriteHeader(hdr); err != nil {
			return err
		}
	}
	return nil
}

// windowsHeader makes of a layer's entry one of a layer for Windows. The target of a symlink is what a program will read, and
// stays; BuildKit prefixes it, so that the link leads nowhere.
func windowsHeader(hdr *tar.Header) {
	hdr.Name = windowsFiles + hdr.Name
	if hdr.Typeflag == tar.TypeLink {
		hdr.Linkname = windowsFiles + hdr.Linkname
	}
	if hdr.ModTime.IsZero() {
		hdr.ModTime = time.Unix(0, 0)
	}
	describeWindows(hdr)
	switch hdr.Typeflag {
	case tar.TypeDir:
		hdr.PAXRecords[recordSecurity] = securityDirectory
	case tar.TypeReg:
		hdr.PAXRecords[recordSecurity] = securityFile
	}
}

func describeWindows(hdr *tar.Header) {
	if hdr.PAXRecords == nil {
		hdr.PAXRecords = make(map[string]string)
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		hdr.Mode |= modeDirectory
		hdr.PAXRecords[recordFileAttr] = attrDirectory
	case tar.TypeReg:
		hdr.Mode |= modeRegular
		hdr.PAXRecords[recordFileAttr] = attrArchive
	}
	hdr.PAXRecords[recordCreationTime] = fmt.Sprintf("%d.%d", hdr.ModTime.Unix(), hdr.ModTime.Nanosecond())
	hdr.Format = tar.FormatPAX
}
