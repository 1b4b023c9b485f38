// Package registrytest is a registry that tests can break in every way that real ones break.
//
// A Registry is an http.Handler that implements what a client needs of the OCI distribution specification, keeping
// content per repository, in memory or in a directory. Faults make chosen requests fail: statuses, cut connections,
// wrong bytes, stalls. A TokenServer hands out bearer tokens that the Registry checks. Everything that was asked for is
// recorded, with the Authorization that came along.
//
// Start serves a handler on a loopback port. A Network serves handlers under any name, over TLS or not, without a
// network: connections are pipes, so that whole clients and servers run inside a testing/synctest bubble.
package registrytest
