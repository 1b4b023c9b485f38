package engine

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"

	"github.com/boxbuild/boxbuild/worker"
)

// events streams what happens until the client goes, or a time that it gives.
func (s *Server) events(ctx context.Context, c *call) error {
	since, err := c.instant("since")
	if err != nil {
		return err
	}
	until, err := c.instant("until")
	if err != nil {
		return err
	}
	if !until.IsZero() && until.Before(since) {
		return worker.Invalidf("`since` time (%s) cannot be after `until` time (%s)", c.get("since"), c.get("until"))
	}
	filters, err := c.filters()
	if err != nil {
		return err
	}
	kind, prefix := eventFormat(c)
	enc := json.NewEncoder(c.w)
	enc.SetEscapeHTML(false)
	if err := filters.Check(eventKeys...); err != nil {
		return err
	}
	if since.IsZero() && until.IsZero() {
		since = time.Now()
	}
	// A client waits for this before it does what it wants to see, and that is remembered until it is watched for.
	c.w.Header().Set("Content-Type", kind)
	c.w.Flush()
	return s.opt.Events.Watch(ctx, since, until, filters, func(m events.Message) error {
		if c.before(46) && m.Type == events.ImageEventType && m.Action == events.ActionCreate {
			return nil
		}
		var err error
		if prefix != "" {
			_, err = io.WriteString(c.w, prefix)
		}
		if err == nil {
			err = enc.Encode(eventFor(m, c.version))
		}
		c.w.Flush()
		return err
	})
}

// eventKeys are those of the filters, as docker has them.
var eventKeys = []string{
	"config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret", "service",
	"type", "volume",
}

// recordSeparator begins a document of a JSON text sequence (RFC 7464).
const recordSeparator = "\x1e"

// eventFormat is the content type of the stream, among those that the client would have, and what comes before an event.
func eventFormat(c *call) (kind, prefix string) {
	if c.before(52) {
		return types.MediaTypeJSON, ""
	}
	for _, header := range c.r.Header.Values("Accept") {
		for one := range strings.SplitSeq(header, ",") {
			kind, params, err := mime.ParseMediaType(strings.TrimSpace(one))
			if err != nil || params["q"] == "0" {
				continue
			}
			switch kind {
			case types.MediaTypeJSONLines:
				if !c.before(53) {
					return kind, ""
				}
			case types.MediaTypeNDJSON, types.MediaTypeJSON:
				return kind, ""
			case types.MediaTypeJSONSequence:
				return kind, recordSeparator
			}
		}
	}
	return types.MediaTypeJSON, ""
}

// eventFor is an event as clients of a version expect it.
func eventFor(m events.Message, v version) any {
	if !v.less(version{1, 52}) {
		return m
	}
	old := legacyEvent{Message: m}
	if m.Type == events.ContainerEventType || m.Type == events.ImageEventType {
		old.ID, old.Status = m.Actor.ID, string(m.Action)
	}
	if m.Type == events.ContainerEventType {
		old.From = m.Actor.Attributes["image"]
	}
	return old
}

// legacyEvent has the fields that events had before they had actors.
type legacyEvent struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	events.Message
}

// flushing writes at once what is written to it.
type flushing struct{ http.ResponseWriter }

// Write implements io.Writer.
func (f flushing) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	if err == nil {
		err = http.NewResponseController(f.ResponseWriter).Flush()
	}
	return n, err
}
