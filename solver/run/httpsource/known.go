package httpsource

import (
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// A Known is a content that a URL has had: by what the server knows it, and what it was.
type Known struct {
	ETag         string        `json:"etag,omitempty"`         // without the mark of a weak one
	LastModified string        `json:"lastmodified,omitempty"` // only if it tells this content from every other
	Digest       digest.Digest `json:"digest"`
	Name         string        `json:"name"`     // of the file, as FileName found it
	Modified     time.Time     `json:"modified"` // that the server said; zero for none
}

// KnownOf returns what is to be remembered of a content that came with answer a; ok is false if the server has given
// nothing by which it could be known again.
func KnownOf(a *Answer, d digest.Digest, name string) (k Known, ok bool) {
	k = Known{
		ETag: etagValue(a.Header.Get("ETag")), LastModified: strongDate(a.Header),
		Digest: d, Name: name, Modified: a.Modified(),
	}
	return k, k.ETag != "" || k.LastModified != ""
}

// etagValue returns an entity tag without the mark of a weak one: weak tags are compared as strong ones are, as in
// BuildKit. A server whose weak tag stands for several contents would say so of them that they are interchangeable.
func etagValue(v string) string { return strings.TrimPrefix(v, "W/") }

// strongDate returns the Last-Modified of an answer if it was old enough when the answer was made that a later change has
// another one: dates are whole seconds, RFC 9110 section 8.8.2.2. A minute is what HTTP's older texts ask for.
func strongDate(h http.Header) string {
	v := h.Get("Last-Modified")
	modified, err1 := http.ParseTime(v)
	date, err2 := http.ParseTime(h.Get("Date"))
	if err1 != nil || err2 != nil || date.Sub(modified) < time.Minute {
		return ""
	}
	return v
}

// conditions asks for the content unless it is one of known.
func conditions(h http.Header, known []Known) {
	var tags []string
	for _, k := range known {
		if k.ETag != "" {
			tags = append(tags, k.ETag)
		}
	}
	if len(tags) > 0 {
		h.Set("If-None-Match", strings.Join(tags, ", "))
		return // servers heed it before a date
	}
	if len(known) > 0 && known[0].LastModified != "" {
		h.Set("If-Modified-Since", known[0].LastModified)
	}
}

// matchKnown returns the index of the known content that an answer says to be current, or -1. The answer may be a whole
// one: not every server that gives tags heeds conditions.
func matchKnown(resp *http.Response, known []Known) int {
	tag := etagValue(resp.Header.Get("ETag"))
	unchanged := resp.StatusCode == http.StatusNotModified
	only := -1 // the single one that has a tag
	tagged := 0
	for i, k := range known {
		switch {
		case k.ETag == "":
			continue
		case tag != "" && k.ETag == tag:
			return i
		}
		only = i
		tagged++
	}
	switch {
	case !unchanged || tag != "":
		return -1
	case tagged == 1:
		return only // some servers leave out the tag that was asked about
	case tagged == 0 && len(known) > 0:
		return 0 // asked about by date
	}
	return -1
}
