package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
	"github.com/boxbuild/boxbuild/solver/session"
)

// A secretSource is where the client has a secret from. It is read when the daemon asks, each time.
type secretSource struct {
	path string
	env  string // the name of a variable; goes before path
}

// A secretStore is what --secret offers, by ID.
type secretStore map[string]secretSource

// secrets reads --secret: id=ID[,src=PATH|,env=NAME][,type=file|env]. Where neither is said it is the variable of the
// ID's name, if there is one, else the file. Of several with one ID the last counts.
func (a *app) secrets(flags []string) (secretStore, error) {
	store := make(secretStore, len(flags))
	for _, f := range flags {
		if f == "" {
			continue
		}
		id, src, err := parseSecret(f)
		if err != nil {
			return nil, usagef("invalid argument %q for \"--secret\" flag: %v", f, err)
		}
		if src == (secretSource{}) {
			if _, ok := a.env.Lookup(id); ok {
				src.env = id
			} else {
				src.path = id
			}
		}
		store[id] = src
	}
	for id, src := range store {
		if src.path == "" {
			continue
		}
		st, err := os.Stat(src.path)
		if err != nil {
			return nil, fmt.Errorf("ERROR: failed to build: failed to stat %s: %w", src.path, err)
		}
		if st.Size() > session.MaxSecret {
			return nil, fmt.Errorf("ERROR: failed to build: secret %s too big. max size 500KiB", id)
		}
	}
	return store, nil
}

func parseSecret(flag string) (id string, src secretSource, err error) {
	fields, err := csv.NewReader(strings.NewReader(flag)).Read()
	if err != nil {
		return "", src, fmt.Errorf("failed to parse csv secret: %w", err)
	}
	kind := ""
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return "", src, fmt.Errorf("invalid field '%s' must be a key=value pair", field)
		}
		switch key = strings.ToLower(key); key {
		case "type":
			if value != "file" && value != "env" {
				return "", src, fmt.Errorf("unsupported secret type %q", value)
			}
			kind = value
		case "id":
			id = value
		case "source", "src":
			src.path = value
		case "env":
			src.env = value
		default:
			return "", src, fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
	}
	if kind == "env" && src.env == "" {
		src.env, src.path = src.path, ""
	}
	if id == "" {
		return "", src, errors.New("secret missing ID")
	}
	return id, src, nil
}

// answer returns the secret of that ID. One that was offered and cannot be read is an error; what the user did not offer
// is never looked for.
func (s secretStore) answer(env config.Env, id string) (*boxbuildv1.SecretAnswer, error) {
	src, ok := s[id]
	if !ok {
		return &boxbuildv1.SecretAnswer{}, nil
	}
	if src.env != "" {
		value, _ := env.Lookup(src.env)
		return secretAnswer([]byte(value))
	}
	f, err := os.Open(src.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, session.MaxSecret+1)) // a pipe has no size to check before
	if err != nil {
		return nil, err
	}
	return secretAnswer(data)
}

func secretAnswer(data []byte) (*boxbuildv1.SecretAnswer, error) {
	if len(data) > session.MaxSecret {
		return nil, fmt.Errorf("invalid secret size %d", len(data))
	}
	return &boxbuildv1.SecretAnswer{Found: true, Data: data}, nil
}
