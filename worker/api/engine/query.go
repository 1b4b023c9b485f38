package engine

import (
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker"
)

// parseForm reads the query, and a body that is a form: tools send parameters that way too.
func (c *call) parseForm() error {
	var err error
	if c.form, err = url.ParseQuery(c.r.URL.RawQuery); err != nil {
		return worker.Invalidf("%v", err)
	}
	kind, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if c.r.Method != http.MethodPost || err != nil || kind != "application/x-www-form-urlencoded" {
		return nil
	}
	c.r.Body = http.MaxBytesReader(c.w, c.r.Body, maxJSON)
	if err := c.r.ParseForm(); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return err
		}
		return worker.Invalidf("%v", err)
	}
	c.form = c.r.Form
	return nil
}

func (c *call) get(key string) string { return c.form.Get(key) }

// is reads a truth value as docker does: whatever is not a way to say no says yes.
func (c *call) is(key string) bool {
	switch strings.ToLower(strings.TrimSpace(c.get(key))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// isOr is is for what has a default.
func (c *call) isOr(key string, def bool) bool {
	if !c.form.Has(key) {
		return def
	}
	return c.is(key)
}

// number reads a number; 0 if there is none.
func (c *call) number(key string) (int64, error) {
	s := c.get(key)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, worker.Invalidf("invalid value %q for %s: it is no number", s, key)
	}
	return n, nil
}

// filters reads the parameter of that name.
func (c *call) filters() (worker.Filters, error) { return worker.ParseFilters(c.get("filters")) }

// instant reads a time: seconds since 1970 with decimals, as clients send it, or RFC 3339. Empty is the zero time.
func (c *call) instant(key string) (time.Time, error) {
	t, err := parseInstant(c.get(key))
	if err != nil {
		return t, worker.Invalidf("invalid value %q for %s: %v", c.get(key), key, err)
	}
	return t, nil
}

func parseInstant(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	whole, frac, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
			return t, nil
		}
		return time.Time{}, errors.New("it is no time")
	}
	if frac == "" {
		return time.Unix(sec, 0), nil
	}
	if len(frac) > 9 {
		frac = frac[:9]
	}
	nsec, err := strconv.ParseUint(frac, 10, 64)
	if err != nil {
		return time.Time{}, errors.New("it is no time")
	}
	for range 9 - len(frac) {
		nsec *= 10
	}
	return time.Unix(sec, int64(nsec)), nil
}

// platform reads a platform of the parameter "platform": in JSON, which is how new parameters have it, or as
// "linux/arm64". nil if there is none.
func (c *call) platform() (*op.Platform, error) {
	all, err := parsePlatforms(c.form["platform"])
	switch {
	case err != nil || len(all) == 0:
		return nil, err
	case len(all) > 1:
		return nil, worker.Invalidf("multiple platform parameters not supported")
	}
	return &all[0], nil
}

// parsePlatforms reads platforms; empty texts are none.
func parsePlatforms(texts []string) ([]op.Platform, error) {
	var out []op.Platform
	for _, s := range texts {
		if s == "" {
			continue
		}
		var p ocispec.Platform
		if strings.HasPrefix(strings.TrimSpace(s), "{") {
			if err := json.Unmarshal([]byte(s), &p); err != nil {
				return nil, worker.Invalidf("failed to parse platform: %v", err)
			}
			if p.OS == "" || p.Architecture == "" {
				return nil, worker.Invalidf("both OS and Architecture must be provided")
			}
		} else {
			var err error
			if p, err = platforms.Parse(s); err != nil {
				return nil, worker.Invalidf("%v", err)
			}
		}
		out = append(out, platforms.Normalize(p))
	}
	return out, nil
}

// parseCount reads a number that is not negative.
func parseCount(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err
}
