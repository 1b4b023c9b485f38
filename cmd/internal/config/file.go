package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/pelletier/go-toml/v2"
)

// A Duration is a time.Duration that a file writes as "90s" or "1h30m".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Bytes is a size that a file writes as "20GB"; units are powers of 1000, or of 1024 as "GiB".
type Bytes int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	parse := units.FromHumanSize
	if strings.Contains(strings.ToLower(string(text)), "i") {
		parse = units.RAMInBytes
	}
	v, err := parse(string(text))
	*b = Bytes(v)
	return err
}

// readFile lays the file at path over d. It is strict: a key that means nothing is an error that names its line, since
// a setting that is misspelt would otherwise be a setting that is silently not made.
func (d *Daemon) readFile(path string, required bool) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return nil
	} else if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	err = toml.NewDecoder(f).DisallowUnknownFields().Decode(d)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		var errs []error
		for _, e := range unknown.Errors {
			row, _ := e.Position()
			errs = append(errs, fmt.Errorf("%s:%d: unknown key %s", path, row, key(e.Key())))
		}
		return errors.Join(errs...)
	case errors.As(err, &wrong):
		row, column := wrong.Position()
		return fmt.Errorf("%s:%d:%d: %w", path, row, column, wrong)
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// key writes a key as the file has it.
func key(parts []string) string {
	s := ""
	for i, p := range parts {
		if i > 0 {
			s += "."
		}
		s += p
	}
	return s
}
