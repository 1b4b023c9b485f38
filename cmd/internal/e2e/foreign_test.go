package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/boxbuild/boxbuild/executor"
	"github.com/boxbuild/boxbuild/executor/binfmt"
)

// program writes a static program for an architecture that exits with 0: program arm64 file.
func program(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: program arch file")
	}
	b := binfmt.Program(args[0])
	if b == nil {
		ts.Fatalf("no program for %s", args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o755))
}

// compile compiles testdata/foreign for an architecture: compile arm64 file.
func compile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: compile arch file")
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", ts.MkAbs(args[1]), "./testdata/foreign")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+args[0])
	if out, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("compiling for %s: %v\n%s", args[0], err, out)
	}
}

// runs says whether programs for an architecture are executed here; alone says that they need nothing in the sandbox for
// it, as containers have nothing.
func runs(arch string) (runs, alone bool, err error) {
	em, err := binfmt.New(binfmt.Options{}).Emulator(context.Background(), executor.Platform{OS: "linux", Architecture: arch})
	var no *executor.PlatformError
	if errors.As(err, &no) {
		return false, false, nil
	}
	return err == nil, em == nil, err
}
