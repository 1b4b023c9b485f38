// Package buildkit holds the tests of the daemon as BuildKit's own client sees it: the Go package client and buildctl
// against a real boxbuildd with real sandboxes.
//
// Every test has a daemon and a store of its own. When a test ends its daemon is ended by SIGTERM, which must not take
// long, and no process of its may be left.
package buildkit
