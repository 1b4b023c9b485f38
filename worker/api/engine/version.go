package engine

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/boxbuild/boxbuild/worker"
)

// A version is one of the API.
type version struct{ major, minor int }

// current is the version that the answers are of by themselves.
var current = version{1, 56}

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func (v version) less(o version) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

// parseVersion reads "1.40". A version without a minor one is of minor 0, and what comes after that is not looked at.
func parseVersion(s string) (version, bool) {
	parts := strings.Split(s, ".")
	var v version
	var err error
	if v.major, err = strconv.Atoi(parts[0]); err != nil || v.major < 0 {
		return version{}, false
	}
	if len(parts) > 1 {
		if v.minor, err = strconv.Atoi(parts[1]); err != nil || v.minor < 0 {
			return version{}, false
		}
	}
	return v, true
}

// splitVersion takes the version off a path: /v1.40/_ping is /_ping of 1.40. A path without one has the current version.
func splitVersion(path string) (version, string, bool) {
	rest, ok := strings.CutPrefix(path, "/v")
	if !ok {
		return current, path, true
	}
	s, rest, ok := strings.Cut(rest, "/")
	if !ok || s == "" || strings.Trim(s, "0123456789.") != "" {
		return current, path, true // "/volumes"
	}
	v, ok := parseVersion(s)
	return v, "/" + rest, ok
}

// check refuses versions that the Server does not speak, in docker's words.
func (s *Server) check(v version) error {
	switch {
	case v.less(s.min):
		return worker.Invalidf("client version %s is too old. Minimum supported API version is %s, "+
			"please upgrade your client to a newer version", v, s.min)
	case current.less(v):
		return worker.Invalidf("client version %s is too new. Maximum supported API version is %s", v, current)
	}
	return nil
}
