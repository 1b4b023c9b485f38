package binfmt

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tryFor bounds a program that does nothing.
const tryFor = 10 * time.Second

// try executes a program alone in a root directory, or, without the right to that, where it is.
func try(ctx context.Context, dir string, program []byte) error {
	root, err := os.MkdirTemp(dir, "binfmt-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	file := filepath.Join(root, "check")
	if err := os.WriteFile(file, program, 0o700); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	for n := 0; ; n++ {
		cmd := exec.CommandContext(ctx, file)
		if os.Getuid() == 0 {
			cmd = exec.CommandContext(ctx, "/check")
			cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: root}
		}
		cmd.Env = []string{}
		err := cmd.Run()
		// A process that was forked just while the file was being written has it open until it executes something else.
		if !errors.Is(err, syscall.ETXTBSY) || n == 50 {
			return err
		}
		time.Sleep(time.Millisecond << min(n, 6))
	}
}

// registered returns the interpreter of the first enabled handler for a program, if it is a static program of this
// machine's; else "".
func (d *Detector) registered(program []byte) string {
	files, err := os.ReadDir(d.opt.Registry)
	if err != nil {
		return ""
	}
	for _, f := range files {
		if f.Name() == "register" || f.Name() == "status" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(d.opt.Registry, f.Name()))
		if err != nil {
			continue
		}
		h, err := parseHandler(string(text))
		if err != nil || !h.matches(program) {
			continue
		}
		if isStatic(h.interpreter) {
			return h.interpreter
		}
	}
	return ""
}

// A handler is a registration as binfmt_misc shows it.
type handler struct {
	enabled     bool
	interpreter string
	flags       string
	offset      int
	magic, mask []byte
}

// parseHandler reads a file of binfmt_misc. One that goes by the name's extension has no magic, and matches nothing.
func parseHandler(text string) (*handler, error) {
	h := &handler{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		var err error
		switch key {
		case "enabled":
			h.enabled = true
		case "interpreter":
			h.interpreter = value
		case "flags:":
			h.flags = value
		case "offset":
			h.offset, err = strconv.Atoi(value)
		case "magic":
			h.magic, err = hex.DecodeString(value)
		case "mask":
			h.mask, err = hex.DecodeString(value)
		}
		if err != nil {
			return nil, fmt.Errorf("reading a handler: %s: %w", key, err)
		}
	}
	return h, nil
}

// matches says whether the kernel would give the program to the handler.
func (h *handler) matches(program []byte) bool {
	if !h.enabled || len(h.magic) == 0 || h.offset < 0 || h.offset > len(program)-len(h.magic) {
		return false
	}
	for i, want := range h.magic {
		mask := byte(0xff)
		if i < len(h.mask) {
			mask = h.mask[i]
		}
		if program[h.offset+i]&mask != want&mask {
			return false
		}
	}
	return true
}
