package config

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// A Duration is a time.Duration that a file writes as "90s" or "1h30m", or as a number of seconds.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	if n, err := strconv.ParseInt(string(text), 10, 32); err == nil {
		*d = Duration(time.Duration(n) * time.Second)
		return nil
	}
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// UnmarshalTOML implements unstable.Unmarshaler: a number would be taken for nanoseconds otherwise.
func (d *Duration) UnmarshalTOML(data []byte) error { return d.UnmarshalText(bytes.Trim(data, ` "'`)) }

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

// A Space is how much of a disk: bytes, or hundredths of it as "20%". Its units are powers of 1024 however they are
// written, since those of buildkitd.toml are.
type Space struct {
	Bytes   int64
	Percent int64
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Space) UnmarshalText(text []byte) error {
	if digits, ok := strings.CutSuffix(string(text), "%"); ok {
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 0 || n > 100 {
			return fmt.Errorf("%q is not a part of a disk", text)
		}
		*s = Space{Percent: n}
		return nil
	}
	n, err := units.RAMInBytes(string(text))
	*s = Space{Bytes: n}
	return err
}

// Of returns the bytes of a disk that has so many in all.
func (s Space) Of(total int64) int64 {
	if s.Percent == 0 {
		return s.Bytes
	}
	return total / 100 * s.Percent
}

func (d Duration) std() time.Duration { return time.Duration(d) }
