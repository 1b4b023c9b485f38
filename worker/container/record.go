package container

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/boxbuild/boxbuild/snapshot"
)

// bucket has the records, as JSON, by ID.
var bucket = []byte("containers.v1")

// A record is what is stored of a container: the request as it came, with what docker completes at creation, and how it
// stands. What the pointers lead to is never changed; a change is another value.
type record struct {
	ID, Name string // the name without a slash
	Created  time.Time
	Image    digest.Digest
	Platform ocispec.Platform
	Snapshot snapshot.ID // of the image; empty for one without layers
	// Base is what the writable layer stands on: Snapshot and the places that docker puts there, see worker.BaseOf. It is
	// empty in records of before there were such trees.
	Base       snapshot.ID `json:",omitempty"`
	Config     *container.Config
	HostConfig *container.HostConfig
	Endpoints  map[string]*network.EndpointSettings `json:",omitempty"`
	Mounts     []mountPoint                         `json:",omitempty"`

	Want   Want
	Status Status
	// Stopped says that a user has stopped it: the policy unless-stopped leaves it so when the daemon starts.
	Stopped bool `json:",omitempty"`
}

// lower is what the writable layer stands on; empty for nothing.
func (r *record) lower() snapshot.ID {
	if r.Base != "" {
		return r.Base
	}
	return r.Snapshot
}

// load reads all records.
func load(db *bbolt.DB) ([]*record, error) {
	var out []*record
	err := db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		if b == nil {
			return nil
		}
		return b.ForEach(func(id, raw []byte) error {
			rec := new(record)
			if err := json.Unmarshal(raw, rec); err != nil {
				return fmt.Errorf("the record of container %s: %w", id, err)
			}
			if rec.Config == nil || rec.HostConfig == nil {
				return fmt.Errorf("the record of container %s has no request", id)
			}
			out = append(out, rec)
			return nil
		})
	})
	return out, err
}

// Drafts returns a function for store.Options.Keep: which drafts are those of the containers that db has, and what each
// stands on.
func Drafts(db *bbolt.DB) (func(snapshot.Draft) (snapshot.ID, bool), error) {
	recs, err := load(db)
	if err != nil {
		return nil, fmt.Errorf("listing the containers: %w", err)
	}
	parents := make(map[snapshot.Draft]snapshot.ID, len(recs))
	for _, rec := range recs {
		parents[snapshot.Draft(rec.ID)] = rec.lower()
	}
	return func(d snapshot.Draft) (snapshot.ID, bool) {
		parent, ok := parents[d]
		return parent, ok
	}, nil
}
