package e2e

import (
	"context"
	"errors"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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

// runs says whether programs for an architecture are executed here.
func runs(arch string) (bool, error) {
	_, err := binfmt.New(binfmt.Options{}).Emulator(context.Background(), ocispec.Platform{OS: "linux", Architecture: arch})
	var no *executor.PlatformError
	if errors.As(err, &no) {
		return false, nil
	}
	return err == nil, err
}
