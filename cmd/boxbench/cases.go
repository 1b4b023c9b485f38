package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A benchCase is a build that is timed.
type benchCase struct {
	name string
	// prepare makes the context in dir.
	prepare func(dir, base string) error
	// once makes one round of the case ready, unmeasured, and measures it. round -1 is the warm-up.
	once func(ctx context.Context, b builder, dir string, round int) (time.Duration, error)
}

// start of every Dockerfile: a base that no registry is needed for. It is cached from the warm-up on.
const from = "FROM scratch\nADD busybox.tar /\n"

var cases = []benchCase{
	{"50-run-cold", dockerfile(fifty), cold(fifty)},
	{"50-run-unchanged", dockerfile(fifty), unchanged},
	{"20k-files-unchanged", manyFiles, unchanged},
	{"20k-files-cold", manyFiles, coldCopy},
	{"20k-files-one-changed", manyFiles, oneChanged},
	{"8-stages-sleep-2", dockerfile(stages), cold(stages)},
}

// fifty has fifty steps that do nothing.
func fifty(id string) string {
	return from + "ENV ROUND=" + id + "\n" + strings.Repeat("RUN true\n", 50)
}

// stages has eight stages that sleep, and one that needs them all.
func stages(id string) string {
	var b, last strings.Builder
	b.WriteString("FROM scratch AS base\nADD busybox.tar /\nENV ROUND=" + id + "\n")
	last.WriteString("FROM base\n")
	for i := range 8 {
		fmt.Fprintf(&b, "FROM base AS s%d\nRUN sleep 2 && echo %d > /out\n", i, i)
		fmt.Fprintf(&last, "COPY --from=s%d /out /out%d\n", i, i)
	}
	return b.String() + last.String()
}

func link(base, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := os.ReadFile(base)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "busybox.tar"), data, 0o644)
}

func dockerfile(text func(id string) string) func(dir, base string) error {
	return func(dir, base string) error {
		if err := link(base, dir); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text("start")), 0o644)
	}
}

// cold gives every step a key that has not been seen, and builds.
func cold(text func(id string) string) func(context.Context, builder, string, int) (time.Duration, error) {
	return func(ctx context.Context, b builder, dir string, _ int) (time.Duration, error) {
		id := fmt.Sprint(rand.Uint64())
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text(id)), 0o644); err != nil {
			return 0, err
		}
		return timed(func() error { return b.build(ctx, dir, "") })
	}
}

// unchanged builds what was built before.
func unchanged(ctx context.Context, b builder, dir string, round int) (time.Duration, error) {
	t, err := timed(func() error { return b.build(ctx, dir, "") })
	if err != nil || round >= 0 {
		return t, err
	}
	return t, check(ctx, b, dir)
}

const (
	fileCount = 20_000
	dirCount  = 200
	fileSize  = 5900 // bytes; 118 MB in all
)

// manyFiles makes a context of 20,000 files.
func manyFiles(dir, base string) error {
	if err := link(base, dir); err != nil {
		return err
	}
	text := from + "COPY src /src\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		return err
	}
	rng := rand.NewChaCha8([32]byte{1})
	data := make([]byte, fileSize)
	for i := range fileCount {
		sub := filepath.Join(dir, "src", fmt.Sprintf("d%03d", i%dirCount))
		if i < dirCount {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		_, _ = rng.Read(data)
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%05d", i)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// coldCopy has the files copied to a place where they have not been before, so that every builder copies them anew.
func coldCopy(ctx context.Context, b builder, dir string, round int) (time.Duration, error) {
	text := fmt.Sprintf("%sENV ROUND=%d-%d\nRUN true\nCOPY src /src%d\n", from, rand.Uint64(), round, rand.Uint32())
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		return 0, err
	}
	return timed(func() error { return b.build(ctx, dir, "") })
}

// oneChanged changes one file and builds.
func oneChanged(ctx context.Context, b builder, dir string, round int) (time.Duration, error) {
	if round < 0 {
		if err := b.build(ctx, dir, ""); err != nil {
			return 0, err
		}
	}
	name := filepath.Join(dir, "src", "d007", "f00007")
	if err := os.WriteFile(name, []byte(fmt.Sprint(rand.Uint64())), 0o644); err != nil {
		return 0, err
	}
	t, err := timed(func() error { return b.build(ctx, dir, "") })
	if err != nil || round >= 0 {
		return t, err
	}
	return t, check(ctx, b, dir)
}

// check exports the files of the result and compares what was copied with the context.
func check(ctx context.Context, b builder, dir string) error {
	dest, err := os.MkdirTemp("", "boxbench-check")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dest) }()
	if err := b.build(ctx, dir, dest); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dest, "bin", "busybox")); err != nil {
		return fmt.Errorf("checking the result: %w", err)
	}
	src := filepath.Join(dir, "src")
	if _, err := os.Stat(src); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return filepath.WalkDir(src, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		want, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if got, err := os.ReadFile(filepath.Join(dest, rel)); err != nil || string(got) != string(want) {
			return fmt.Errorf("checking the result: %s is not what was copied: %w", rel, err)
		}
		return nil
	})
}
