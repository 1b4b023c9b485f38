// Package crash holds the tests of the whole system under bad luck and bad will: daemons killed in the middle of builds,
// full disks, clients that vanish, registries that fail, archives and images made to break out, and builds that race
// with the removal of what they use. It has no code but its tests.
//
// The tests run the programs themselves. They need root, BOXBUILD_BIN (a directory with boxbuild, boxbuildd and boxshim)
// and BOXBUILD_BASES (one with busybox.tar), and are skipped without them; `make test` sets both.
//
// Life cycle of a test: a host has a root directory of its own and, one after the other, the daemons that use it. When
// the test ends the last daemon is asked to stop, and then nothing of the host's may be left on the machine: no process,
// no mount, no cgroup, no bridge, no nftables table. That check is part of every test here.
//
// CRASH_SEED makes what is chosen at random the same again; it is printed by the tests that choose.
package crash
