package engine

import (
	"encoding/json"

	"github.com/moby/moby/api/types/container"
)

// words are a list that clients may send as one string, which is a list of one word then: nothing splits it. Docker takes
// such for what is created, and a list alone for what is executed.
type words []string

// UnmarshalJSON implements json.Unmarshaler.
func (w *words) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '"' {
		return json.Unmarshal(b, (*[]string)(w))
	}
	one := make(words, 1)
	if err := json.Unmarshal(b, &one[0]); err != nil {
		return err
	}
	*w = one
	return nil
}

// The types below are requests as clients send them. Their lists, being less deep than those of the type that is embedded
// beside them, get what is sent.
type (
	createWords struct {
		container.CreateRequest
		Cmd, Entrypoint, Shell words
		HostConfig             *hostWords
	}
	hostWords struct {
		container.HostConfig
		CapAdd, CapDrop words
	}
	configWords struct {
		container.Config
		Cmd, Entrypoint, Shell words
	}
)

// request returns what is asked for.
func (w *createWords) request() container.CreateRequest {
	req := w.CreateRequest
	if req.Config == nil && (w.Cmd != nil || w.Entrypoint != nil || w.Shell != nil) {
		req.Config = new(container.Config) // nothing else was sent of it
	}
	if c := req.Config; c != nil {
		c.Cmd, c.Entrypoint, c.Shell = w.Cmd, w.Entrypoint, w.Shell
	}
	if h := w.HostConfig; h != nil {
		req.HostConfig = &h.HostConfig
		req.HostConfig.CapAdd, req.HostConfig.CapDrop = h.CapAdd, h.CapDrop
	}
	return req
}

// config returns the config that is sent; nil if none is.
func (w *configWords) config() *container.Config {
	if w == nil {
		return nil
	}
	c := w.Config
	c.Cmd, c.Entrypoint, c.Shell = w.Cmd, w.Entrypoint, w.Shell
	return &c
}
