// Package registry is a client of OCI distribution registries: it resolves names, pulls manifests and blobs, and pushes
// them, following the OCI distribution specification 1.1 and what registries of Docker's API version 2 do beside it.
//
// # Life cycle
//
// A Client lives as long as the daemon, serves every build at once, and is closed when no call is left. It remembers,
// per host, how the host wants to be authenticated, which tokens it gave out, and which mirrors did not answer. It keeps
// no content: whatever it returns came from the registry that was asked, in this call.
//
// Who asks comes with the context: WithKeychain puts one user's credentials there. Tokens and flights are shared only
// between calls whose credentials are equal.
//
// # What is trusted
//
// Bytes are trusted by digest only, never by the host, the connection or a header. Digests are checked for form before
// they become part of a path. Credentials go to the host that they were kept for, and to a token server that may speak
// for it (see tokenServerAllowed); never along a redirect. Plain HTTP is spoken only with hosts that are configured so
// by name, and with localhost, 127.0.0.0/8 and [::1] written literally: a name's addresses never matter. URLs inside
// manifests are never fetched.
//
// # Layers
//
// A call goes down through: mirrors (mirror.go), retries (retry.go), authentication (auth.go, token.go), redirects and
// stall detection (send.go), and one http.Transport per configured host (transport.go). Only retry.go repeats requests.
//
// # Lock order
//
// Client.mu, session.mu and flight.mu are leaves: none is held while another is taken, or during I/O.
package registry
