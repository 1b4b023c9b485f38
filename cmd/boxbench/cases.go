package main

import (
	"bytes"
	"context"
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
	{"50-run-cold", dockerfile(fifty), cold(fifty, nothing)},
	{"50-run-unchanged", dockerfile(fifty), unchanged(nothing)},
	{"20k-files-unchanged", manyFiles, unchanged(copied("src"))},
	{"20k-files-cold", manyFiles, coldCopy},
	{"20k-files-one-changed", manyFiles, oneChanged},
	{"8-stages-sleep-2", dockerfile(stages), cold(stages, joined)},
}

// fifty has fifty steps that do nothing.
func fifty(id string) string {
	return from + "ENV ROUND=" + id + "\n" + strings.Repeat("RUN true\n", 50)
}

const stageCount = 8

// stages has eight stages that sleep, and one that needs them all.
func stages(id string) string {
	var b, last strings.Builder
	b.WriteString("FROM scratch AS base\nADD busybox.tar /\nENV ROUND=" + id + "\n")
	last.WriteString("FROM base\n")
	for i := range stageCount {
		fmt.Fprintf(&b, "FROM base AS s%d\nRUN sleep 2 && echo %d > /out\n", i, i)
		fmt.Fprintf(&last, "COPY --from=s%d /out /out%d\n", i, i)
	}
	return b.String() + last.String()
}

// link puts the base into the context dir.
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
func cold(text func(id string) string, verify func(dir, dest string) error) func(context.Context, builder, string, int) (time.Duration, error) {
	return func(ctx context.Context, b builder, dir string, round int) (time.Duration, error) {
		id := fmt.Sprint(rand.Uint64())
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text(id)), 0o644); err != nil {
			return 0, err
		}
		return checked(ctx, b, dir, round, verify)
	}
}

// unchanged builds what was built before.
func unchanged(verify func(dir, dest string) error) func(context.Context, builder, string, int) (time.Duration, error) {
	return func(ctx context.Context, b builder, dir string, round int) (time.Duration, error) {
		return checked(ctx, b, dir, round, verify)
	}
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
	target := fmt.Sprintf("src%d", rand.Uint32())
	text := fmt.Sprintf("%sENV ROUND=%d\nRUN true\nCOPY src /%s\n", from, rand.Uint64(), target)
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		return 0, err
	}
	return checked(ctx, b, dir, round, copied(target))
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
	return checked(ctx, b, dir, round, copied("src"))
}

// checked times a build, and after the warm-up's exports the files of the result and has verify look at them.
func checked(ctx context.Context, b builder, dir string, round int, verify func(dir, dest string) error) (time.Duration, error) {
	t, err := timed(func() error { return b.build(ctx, dir, "") })
	if err != nil || round >= 0 {
		return t, err
	}
	dest, err := os.MkdirTemp(filepath.Dir(dir), "check")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dest) }()
	if err := b.build(ctx, dir, dest); err != nil {
		return 0, err
	}
	if _, err := os.Lstat(filepath.Join(dest, "bin", "busybox")); err != nil {
		return 0, fmt.Errorf("checking the result: %w", err)
	}
	if err := verify(dir, dest); err != nil {
		return 0, fmt.Errorf("checking the result: %w", err)
	}
	return t, nil
}

// nothing is for cases whose steps make no files.
func nothing(_, _ string) error { return nil }

// joined wants what each of the stages made.
func joined(_, dest string) error {
	for i := range stageCount {
		name := fmt.Sprintf("out%d", i)
		if got, err := os.ReadFile(filepath.Join(dest, name)); err != nil || string(got) != fmt.Sprintln(i) {
			return fmt.Errorf("%s has %q: %w", name, got, err)
		}
	}
	return nil
}

// copied wants the files of the context's src in target, and no others.
func copied(target string) func(dir, dest string) error {
	return func(dir, dest string) error {
		n := 0
		err := filepath.WalkDir(filepath.Join(dest, target), func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			n++
			rel, err := filepath.Rel(filepath.Join(dest, target), p)
			if err != nil {
				return err
			}
			want, err := os.ReadFile(filepath.Join(dir, "src", rel))
			if err != nil {
				return err
			}
			got, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			if !bytes.Equal(got, want) {
				return fmt.Errorf("%s is not what was copied", rel)
			}
			return nil
		})
		if err == nil && n != fileCount {
			err = fmt.Errorf("%d files instead of %d", n, fileCount)
		}
		return err
	}
}
