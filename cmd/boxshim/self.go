//go:build cgo

package main

import (
	"fmt"
	"io"
	"os"
)

// initProgram is a copy of this program in the private root, to be bound into sandboxes that want an init.
const initProgram = "/run/init"

// installInit makes initProgram when it is first needed.
func (s *session) installInit() error {
	s.initOnce.Do(func() { s.initErr = copySelf(initProgram) })
	return s.initErr
}

func copySelf(path string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("opening this program: %w", err)
	}
	defer self.Close()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("copying this program: %w", err)
	}
	if _, err := io.Copy(out, self); err != nil {
		out.Close()
		return fmt.Errorf("copying this program: %w", err)
	}
	return out.Close()
}
