//go:build race

package dockerfile

// raced says that the race detector is on; with it memory and time mean nothing.
const raced = true
