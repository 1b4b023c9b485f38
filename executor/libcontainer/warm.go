//go:build cgo

package libcontainer

import "encoding/json"

// warmUp has a spare do once, while nobody waits for it, what takes long the first time in each process: package json looks
// through all types that a configuration consists of, the stack grows, and the pages of code and memory come.
func warmUp() {
	const text = `{"config":{"mounts":[{}],"cgroups":{}}}`
	_ = json.Unmarshal([]byte(text), new(initConfig)) // what it is makes no difference
}
