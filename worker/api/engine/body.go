package engine

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"

	"github.com/boxbuild/boxbuild/worker"
)

// maxJSON is how many bytes a request that is one document may have.
const maxJSON = 8 << 20

// checkJSON refuses a body that does not say that it is JSON. Without a body nothing has to be said.
func (c *call) checkJSON() error {
	ct := c.r.Header.Get("Content-Type")
	if ct == "" && (c.r.Body == nil || c.r.ContentLength == 0) {
		return nil
	}
	kind, _, err := mime.ParseMediaType(ct)
	if err != nil {
		return worker.Invalidf("malformed Content-Type header (%s): %v", ct, err)
	}
	if kind != "application/json" {
		return worker.Invalidf("unsupported Content-Type header (%s): must be 'application/json'", ct)
	}
	return nil
}

// read reads the body, one document of JSON, into out. An empty body leaves out as it is.
func (c *call) read(out any) error {
	if err := c.checkJSON(); err != nil {
		return err
	}
	if c.r.Body == nil || c.r.ContentLength == 0 {
		return nil
	}
	dec := json.NewDecoder(http.MaxBytesReader(c.w, c.r.Body, maxJSON))
	err := dec.Decode(out)
	var large *http.MaxBytesError
	switch {
	case err == nil:
	case errors.As(err, &large):
		return err
	case errors.Is(err, io.EOF):
		return worker.Invalidf("invalid JSON: got EOF while reading request body")
	default:
		return worker.Invalidf("invalid JSON: %v", err)
	}
	if dec.More() {
		return worker.Invalidf("unexpected content after JSON")
	}
	return nil
}

// send answers with a document.
func (c *call) send(code int, v any) error {
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(code)
	enc := json.NewEncoder(c.w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the client may be gone
	return nil
}

// sendEmpty answers that it has been done.
func (c *call) sendEmpty() error {
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// sendBody writes a document after the headers, which may have been sent.
func (c *call) sendBody(v any) error {
	enc := json.NewEncoder(c.w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the client may be gone
	return nil
}
