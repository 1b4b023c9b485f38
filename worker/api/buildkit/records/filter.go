package records

import (
	"encoding/csv"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"

	"github.com/boxbuild/boxbuild/frontend/dockerfile"
	"github.com/boxbuild/boxbuild/solver/op"
	"github.com/boxbuild/boxbuild/worker/history"
)

// parseFilters returns what says whether a record matches one of the filters, or all records if there are none. A filter is
// a list of conditions, separated by commas, all of which have to hold: those of containerd's filters on ref, status and
// repository, and comparisons of startedAt, completedAt and duration with <, <=, > and >=. A time is one of RFC 3339, or a
// duration before now.
func parseFilters(in []string, now time.Time) (func(*history.Record) bool, error) {
	var any []func(*history.Record) bool
	for _, f := range in {
		all, err := parseFilter(f, now)
		if err != nil {
			return nil, fmt.Errorf("reading the filter %q: %w", f, err)
		}
		any = append(any, func(rec *history.Record) bool {
			for _, holds := range all {
				if !holds(rec) {
					return false
				}
			}
			return true
		})
	}
	return func(rec *history.Record) bool {
		for _, matches := range any {
			if matches(rec) {
				return true
			}
		}
		return len(any) == 0
	}, nil
}

func parseFilter(in string, now time.Time) ([]func(*history.Record) bool, error) {
	r := csv.NewReader(strings.NewReader(in))
	r.LazyQuotes = true // containerd's values may be quoted
	fields, err := r.Read()
	if err != nil {
		return nil, err
	}
	var all []func(*history.Record) bool
	var rest []string
	for _, f := range fields {
		holds, err := comparison(f, now)
		switch {
		case err != nil:
			return nil, err
		case holds != nil:
			all = append(all, holds)
		default:
			rest = append(rest, f)
		}
	}
	if len(rest) == 0 {
		return all, nil
	}
	filter, err := filters.Parse(strings.Join(rest, ","))
	if err != nil {
		return nil, err
	}
	return append(all, func(rec *history.Record) bool { return filter.Match(adapt(rec)) }), nil
}

// comparison reads a condition on a time or a duration; it returns nil for any other one.
func comparison(f string, now time.Time) (func(*history.Record) bool, error) {
	at := strings.IndexAny(f, "<>")
	if at < 0 {
		return nil, nil
	}
	key, sep, value := f[:at], f[at:at+1], f[at+1:]
	if rest, ok := strings.CutPrefix(value, "="); ok {
		sep, value = sep+"=", rest
	}
	var of func(*history.Record) int64
	var than int64
	switch key {
	case "startedAt", "completedAt":
		when, err := moment(value, now)
		if err != nil {
			return nil, err
		}
		than = when.Unix()
		of = func(rec *history.Record) int64 {
			if key == "startedAt" {
				return rec.Created.Unix()
			}
			return orZero(rec, rec.Ended.Unix())
		}
	case "duration":
		d, err := time.ParseDuration(value)
		if err != nil {
			return nil, fmt.Errorf("invalid duration %q", value)
		}
		than = int64(d)
		of = func(rec *history.Record) int64 { return orZero(rec, int64(rec.Ended.Sub(rec.Created))) }
	default:
		return nil, nil
	}
	return func(rec *history.Record) bool {
		have := of(rec)
		switch sep {
		case "<":
			return have < than
		case "<=":
			return have <= than
		case ">":
			return have > than
		}
		return have >= than
	}, nil
}

// orZero returns 0 for a build that has not ended, as BuildKit compares it.
func orZero(rec *history.Record, value int64) int64 {
	if rec.Ended.IsZero() {
		return 0
	}
	return value
}

func moment(value string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(value); err == nil {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return t, fmt.Errorf("invalid time %q", value)
	}
	return t, nil
}

// adapt is a record as containerd's filters see it.
func adapt(rec *history.Record) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		if len(path) == 0 {
			return "", false
		}
		switch path[0] {
		case "ref":
			return rec.ID, true
		case "status":
			return string(rec.Status), true
		case "repository":
			return repository(rec)
		}
		return "", false
	})
}

// repository is the Git repository that was built from: as the client says of its directory, or the context itself.
func repository(rec *history.Record) (string, bool) {
	if v, ok := rec.Origin.Attrs["vcs:source"]; ok {
		return v, true
	}
	src, err := dockerfile.ContextSource(rec.Origin.Attrs["context"])
	if err != nil {
		return "", false
	}
	if g, ok := src.(*op.Git); ok {
		return g.Remote, true
	}
	return "", false
}
