// Package e2e holds the tests of the programs as users run them: the real command line against the real daemon, with real
// sandboxes, a real registry, and the ecosystem's own tools (skopeo, umoci) as judges of what comes out.
//
// Every script has a daemon and a store of its own. When a script ends, its daemon is ended by SIGTERM, and nothing of it
// may be left: no process, mount, network device, packet filter table or cgroup.
//
// The tests need root, the programs (BOXBUILD_BIN names their directory) and the base images (BOXBUILD_BASES); `make test`
// provides them. What lacks one of the ecosystem's tools skips itself.
package e2e
