// Package bksession is the daemon's side of BuildKit's session protocol: a client of a build offers gRPC services over a
// connection that it has opened itself, and the build calls them. It sends the client's directories, takes the results,
// and asks for registry tokens, secrets and SSH agents.
//
// # Life cycle
//
//	New ──> Manager ──Serve(conn)──────> the session is there … until the connection or its health check ends
//	                ──Get(id)──> Session ──Directory, SendStream, Secret …──>
//
// A Manager lives as long as the daemon. Serve owns the connection, the gRPC client on it and the goroutine that checks
// its health, and returns when all are gone. A Session that Get returned stays valid after that: its context has ended
// with a *LostError, and every call returns that error, so that a build which uses it ends within seconds, with a reason.
//
// # What is trusted
//
// Nothing that comes from the client. What it sends of a directory goes through filesync.Intake, which makes no path of
// it. Sizes of messages and numbers of entries are bounded. Secrets, passwords and tokens are in no error of this
// package, and neither is a shared key.
//
// # Lock order
//
// Manager.mu is a leaf and never held during I/O.
package bksession

import (
	"time"

	"github.com/boxbuild/boxbuild/proto/filesync"
)

// DefaultWait is how long Get waits for a session: a client opens it at the same time as it asks for the build, over a
// network that may be slow. BuildKit's daemon gives it as long, each time that it needs something of it.
const DefaultWait = 5 * time.Second

// Options are those of a Manager.
type Options struct {
	// Store takes what clients send of their directories. Without one, Directory fails.
	Store *filesync.Store
	// Limits bound what one directory may have; zero values are filesync's defaults.
	Limits filesync.RemoteOptions
	// Wait is how long Get waits for a session to come; DefaultWait if it is 0.
	Wait time.Duration
	// Health says how sessions are watched; the zero value is as BuildKit does it.
	Health Health
}

// Health is how a session is checked to be alive.
type Health struct {
	Every    time.Duration // between checks; 5 s if 0
	Timeout  time.Duration // for an answer; 15 s if 0, and half as long again as the last answer took if that is more
	Failures int           // in a row that end the session; 2 if 0
}

func (h Health) withDefaults() Health {
	if h.Every <= 0 {
		h.Every = 5 * time.Second
	}
	if h.Timeout <= 0 {
		h.Timeout = 15 * time.Second
	}
	if h.Failures <= 0 {
		h.Failures = 2
	}
	return h
}

// Names of the headers that come with a session, in lower case. Values of the last one are gRPC methods with a slash in
// front, such as "/moby.filesync.v1.FileSync/DiffCopy".
const (
	headerID        = "x-docker-expose-session-uuid"
	headerName      = "x-docker-expose-session-name"
	headerSharedKey = "x-docker-expose-session-sharedkey"
	headerMethod    = "x-docker-expose-session-grpc-method"
	headerHealth    = "x-buildkit-session-health-custom-timeout" // milliseconds
)
