package wire

import (
	"strconv"
	"strings"
)

// parseInfo returns the number in the text of /proc/PID/fdinfo of a pidfd.
func parseInfo(info string) int {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil || pid < 0 {
				return 0
			}
			return pid
		}
	}
	return 0
}
