package binfmt

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
)

// cpuFlags reads what the first processor can do.
func cpuFlags() []string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "flags" {
			return strings.Fields(value)
		}
	}
	return nil
}

// isStatic says whether a file is a program that needs no other: it could not find a loader or libraries in a sandbox.
func isStatic(path string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}
