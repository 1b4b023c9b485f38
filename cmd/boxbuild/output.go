package main

import "io"

// An output remembers that it could not be written: what nobody can read was not said, whatever the command says.
type output struct {
	to  io.Writer
	err error // the first
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	n, err := o.to.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

// An outputFile is an output that may be a terminal.
type outputFile struct {
	*output
	file interface{ Fd() uintptr }
}

// Fd returns the file's descriptor.
func (o outputFile) Fd() uintptr { return o.file.Fd() }

// asFile returns o as a writer that has a descriptor if what it writes to has one.
func (o *output) asFile() io.Writer {
	if f, ok := o.to.(interface{ Fd() uintptr }); ok {
		return outputFile{o, f}
	}
	return o
}
