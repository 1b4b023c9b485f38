package main

import (
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// The first thread of the process is nobody's but main's, so that it is never left in another namespace.
func TestFirstThread(t *testing.T) {
	pid := unix.Getpid()
	var work sync.WaitGroup
	for range 64 {
		work.Go(func() {
			runtime.LockOSThread() // and never unlocked, as of threads that enter namespaces
			for range 100 {
				if unix.Gettid() == pid {
					t.Error("a goroutine has the first thread")
					return
				}
				runtime.Gosched()
			}
		})
	}
	work.Wait()
}
