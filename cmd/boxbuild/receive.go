package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// receive stores what r has.
func (c clientOutput) receive(stdout io.Writer, r io.Reader) error {
	switch {
	case c.stdout:
		_, err := io.Copy(stdout, r)
		return err
	case c.file != "":
		return writeFile(c.file, 0o644, r)
	case c.directory != "":
		return unpack(c.directory, r)
	}
	return fmt.Errorf("this output takes no bytes")
}

// writeFile writes what r has to the file at path, which has its name only once it is complete. Errors are of that name.
func writeFile(path string, mode os.FileMode, r io.Reader) (err error) {
	if st, statErr := os.Stat(path); statErr == nil && !st.Mode().IsRegular() {
		return overwrite(path, r) // a device or a pipe, such as /dev/null
	}
	defer func() { err = named(err, path) }()
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = io.Copy(f, r); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// named gives an error of the operating system's the name of the file that is meant.
func named(err error, path string) error {
	var file *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &link):
		return &fs.PathError{Op: "write", Path: path, Err: link.Err}
	case errors.As(err, &file):
		return &fs.PathError{Op: file.Op, Path: path, Err: file.Err}
	}
	return err
}

func overwrite(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
