package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// windows is the system whose paths have backslashes and drives. All paths in the graph are slash-separated and have no
// drive; configurations of images for Windows have what Windows takes.
const windows = "windows"

// unixPath returns a path that a Dockerfile gives for a system, as the graph has it. One for Windows is cleaned except
// for a slash at its end, and must be on the system drive; it stays relative if it is ("C:x" is). All others are left
// alone.
func unixPath(system, p string) (string, error) {
	if system != windows {
		return p, nil
	}
	p = strings.ReplaceAll(p, `\`, "/")
	switch {
	case len(p) == 2 && p[1] == ':':
		return "", fmt.Errorf("removing drive letter: No relative path specified in %q", p)
	case strings.HasPrefix(p, "//"):
		return "", errors.New("removing drive letter: UNC paths are not supported")
	}
	if drive, rest, ok := strings.Cut(p, ":"); ok {
		if !strings.EqualFold(drive, "c") {
			return "", errors.New("removing drive letter: The specified path is not on the system drive (C:)")
		}
		p = rest
	}
	clean := path.Clean(p)
	if clean != "/" && strings.HasSuffix(p, "/") {
		clean += "/"
	}
	return clean, nil
}

// systemPath is the way back: what the configuration of an image for that system says.
func systemPath(system, p string) string {
	if system != windows {
		return p
	}
	return strings.ReplaceAll(p, "/", `\`)
}

// cwd returns the working directory as the graph has it.
func (st *state) cwd() string {
	dir := st.img.Config.WorkingDir
	if st.platform.OS == windows {
		dir = strings.ReplaceAll(dir, `\`, "/") // it has no drive: setCwd has seen to that
	}
	return absolute("/", dir)
}

// startIn changes to the directory that a base's configuration names. One that is relative is so to itself, which is
// what BuildKit makes of it.
func (st *state) startIn(p string) error {
	p, err := unixPath(st.platform.OS, p)
	if err != nil {
		return fmt.Errorf("normalizing workdir: %w", err)
	}
	st.img.Config.WorkingDir = p
	_, err = st.setCwd(p)
	return err
}

// setCwd changes to a directory that a Dockerfile gives, and returns it as the graph has it.
func (st *state) setCwd(p string) (string, error) {
	p, err := unixPath(st.platform.OS, p)
	if err != nil {
		return "", fmt.Errorf("normalizing workdir: %w", err)
	}
	dir := absolute(st.cwd(), p)
	if st.platform.OS == windows {
		dir = path.Clean(dir)
	}
	st.img.Config.WorkingDir = systemPath(st.platform.OS, dir)
	return dir, nil
}

// destination returns where COPY and ADD put files.
func (st *state) destination(p string) (string, error) {
	var err error
	for range 2 { // as BuildKit does, which takes "C:C:/x" and refuses "C:D:/x"
		if p, err = unixPath(st.platform.OS, p); err != nil {
			return "", err
		}
	}
	return destination(st.cwd(), p), nil
}
