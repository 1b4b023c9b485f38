// Package deploy has no code: its folder holds what runs the daemon elsewhere (systemd units, a manifest for Kubernetes, a
// Dockerfile), and its tests hold these to the flags and keys that the daemon takes.
package deploy
