package main

import (
	"net"
	"os"
	"strconv"
	"time"

	"github.com/boxbuild/boxbuild/cmd/internal/config"
)

// notify tells systemd, if it started the daemon, how far it is: sd_notify(3).
func notify(env config.Env, state string) {
	path := env.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		return // nobody listens
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state)) // nor reads
}

// watchdog tells systemd, if it wants to know, that the daemon lives, for as long as alive returns: sd_watchdog_enabled(3).
// The function that it returns ends that.
func watchdog(env config.Env, alive func()) (stop func()) {
	usec, err := strconv.ParseInt(env.Getenv("WATCHDOG_USEC"), 10, 64)
	if pid := env.Getenv("WATCHDOG_PID"); err != nil || usec <= 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(max(time.Duration(usec)*time.Microsecond/2, time.Millisecond))
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				alive()
				notify(env, "WATCHDOG=1")
			case <-end:
				return
			}
		}
	}()
	return func() { close(end); <-ended }
}
