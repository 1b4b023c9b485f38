package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
)

// statsTable is docker's.
const statsTable = "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}"

var statsHeader = formatter.SubHeaderContext{
	"Container": "CONTAINER", "Name": formatter.NameHeader, "ID": formatter.ContainerIDHeader, "CPUPerc": "CPU %",
	"MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
}

// A sample is what a container uses at a time. Sizes are in bytes, shares in percent.
type sample struct {
	Container, Name, ID   string
	Invalid               bool // nothing is known
	CPU, MemoryShare      float64
	Memory, MemoryLimit   float64
	Received, Transmitted float64
	Read, Written         float64
	Pids                  uint64
}

// newSample computes what people want to know from what the kernel counts.
func newSample(name string, v *container.StatsResponse) sample {
	s := sample{Container: name, Name: v.Name, ID: v.ID, Pids: v.PidsStats.Current}
	// The container's part of the time of all CPUs since the last sample, of which 100 % is one CPU.
	used := float64(v.CPUStats.CPUUsage.TotalUsage) - float64(v.PreCPUStats.CPUUsage.TotalUsage)
	all := float64(v.CPUStats.SystemUsage) - float64(v.PreCPUStats.SystemUsage)
	cpus := float64(v.CPUStats.OnlineCPUs)
	if cpus == 0 {
		cpus = float64(len(v.CPUStats.CPUUsage.PercpuUsage))
	}
	if used > 0 && all > 0 {
		s.CPU = used / all * cpus * 100
	}
	// Cached files that nobody uses are given back when others need the memory. The names differ between cgroups v1 and v2.
	memory := v.MemoryStats.Usage
	if cached, v1 := v.MemoryStats.Stats["total_inactive_file"]; v1 && cached < memory {
		memory -= cached
	} else if cached := v.MemoryStats.Stats["inactive_file"]; cached < memory {
		memory -= cached
	}
	s.Memory, s.MemoryLimit = float64(memory), float64(v.MemoryStats.Limit)
	if s.MemoryLimit > 0 {
		s.MemoryShare = s.Memory / s.MemoryLimit * 100
	}
	for _, n := range v.Networks {
		s.Received += float64(n.RxBytes)
		s.Transmitted += float64(n.TxBytes)
	}
	for _, e := range v.BlkioStats.IoServiceBytesRecursive {
		switch strings.ToLower(e.Op) {
		case "read":
			s.Read += float64(e.Value)
		case "write":
			s.Written += float64(e.Value)
		}
	}
	return s
}

// A statsRow is a sample in the fields of docker's templates.
type statsRow struct {
	formatter.HeaderContext
	s     sample
	trunc bool
}

// MarshalJSON implements json.Marshaler.
func (r *statsRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

// Container is the container as it was asked for.
func (r *statsRow) Container() string { return r.s.Container }

// Name is the container's.
func (r *statsRow) Name() string {
	if name := strings.TrimPrefix(r.s.Name, "/"); name != "" {
		return name
	}
	return "--"
}

// ID is the container's.
func (r *statsRow) ID() string {
	if r.trunc {
		return formatter.TruncateID(r.s.ID)
	}
	return r.s.ID
}

// CPUPerc is its share of one CPU.
func (r *statsRow) CPUPerc() string { return r.known(percent(r.s.CPU), "--") }

// MemUsage is what it uses of what it may.
func (r *statsRow) MemUsage() string {
	return r.known(units.BytesSize(r.s.Memory)+" / "+units.BytesSize(r.s.MemoryLimit), "-- / --")
}

// MemPerc is that in percent.
func (r *statsRow) MemPerc() string { return r.known(percent(r.s.MemoryShare), "--") }

// NetIO is what it has received and sent.
func (r *statsRow) NetIO() string { return r.known(pair(r.s.Received, r.s.Transmitted), "--") }

// BlockIO is what it has read from and written to disks.
func (r *statsRow) BlockIO() string { return r.known(pair(r.s.Read, r.s.Written), "--") }

// PIDs is how many processes it has.
func (r *statsRow) PIDs() string { return r.known(strconv.FormatUint(r.s.Pids, 10), "--") }

func (r *statsRow) known(value, otherwise string) string {
	if r.s.Invalid {
		return otherwise
	}
	return value
}

func percent(v float64) string { return fmt.Sprintf("%.2f%%", v) }

func pair(in, out float64) string {
	return units.HumanSizeWithPrecision(in, 3) + " / " + units.HumanSizeWithPrecision(out, 3)
}
