package sandbox

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxbuild/boxbuild/executor"
)

// Weights of block devices, as blkio.weight has them; the runtime converts them for version 2.
const minWeight, maxWeight = 10, 1000

func validateBlkio(l *executor.Limits) error {
	weights := []uint16{l.BlkioWeight}
	for _, d := range l.Blkio {
		weights = append(weights, d.Weight)
	}
	for _, w := range weights {
		if w != 0 && (w < minWeight || w > maxWeight) {
			return fmt.Errorf("weight of block devices: %d: want %d to %d", w, minWeight, maxWeight)
		}
	}
	return nil
}

// blkioController is what version 1 or version 2 calls the controller.
func blkioController(host *Host) string {
	if host.Controllers["io"] {
		return "io"
	}
	return "blkio"
}

// blockIO describes the limits of block devices, whose numbers are known. It returns nil for none.
func blockIO(l *executor.Limits) *specs.LinuxBlockIO {
	if l.BlkioWeight == 0 && len(l.Blkio) == 0 {
		return nil
	}
	out := &specs.LinuxBlockIO{}
	if l.BlkioWeight > 0 {
		out.Weight = &l.BlkioWeight
	}
	for i := range l.Blkio {
		d := &l.Blkio[i]
		if d.Weight > 0 {
			w := specs.LinuxWeightDevice{Weight: &d.Weight}
			w.Major, w.Minor = d.Major, d.Minor
			out.WeightDevice = append(out.WeightDevice, w)
		}
		for _, t := range []struct {
			rate uint64
			list *[]specs.LinuxThrottleDevice
		}{
			{d.ReadBPS, &out.ThrottleReadBpsDevice},
			{d.WriteBPS, &out.ThrottleWriteBpsDevice},
			{d.ReadIOPS, &out.ThrottleReadIOPSDevice},
			{d.WriteIOPS, &out.ThrottleWriteIOPSDevice},
		} {
			if t.rate > 0 {
				td := specs.LinuxThrottleDevice{Rate: t.rate}
				td.Major, td.Minor = d.Major, d.Minor
				*t.list = append(*t.list, td)
			}
		}
	}
	return out
}
