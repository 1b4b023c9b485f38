// Package buildkit holds the tests of the daemon as BuildKit's own client sees it: the Go package client and buildctl
// against a real boxbuildd with real sandboxes.
//
// Every test has a daemon and a store of its own. When a test ends its daemon is ended by SIGTERM, which must not take
// long, and no process of its may be left.
//
// What buildctl v0.32.2 and buildx v0.38.2 do is tried by scripts, too, where `make clients` could build them. By hand only,
// each compared with buildkitd's answer: `buildx debug` and `buildx dap` (a breakpoint, a shell in the step that failed),
// `--load` (wants Docker's daemon), `buildx history trace`, `buildctl debug get`, a builder of two daemons of which each
// builds one platform.
package buildkit
