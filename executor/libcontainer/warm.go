//go:build cgo

package libcontainer

import (
	"encoding/json"

	"github.com/opencontainers/runc/libcontainer/configs"
)

// warmUp has a spare do once, while nobody waits for it, what takes long the first time in each process: package json looks
// through all types that a configuration consists of, the stack grows, and the pages of code and memory come.
func warmUp() {
	b, err := json.Marshal(&initConfig{Config: &configs.Config{Mounts: []*configs.Mount{{}}}})
	if err == nil {
		_ = json.Unmarshal(b, new(initConfig)) // what it is makes no difference
	}
}
