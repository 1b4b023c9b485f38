package container

import (
	"context"
	"os"

	"github.com/moby/moby/api/types/volume"
)

// Volumes are what a Manager needs of the volumes, see package worker/volume.
type Volumes interface {
	// Ensure makes a volume unless there is one of that name, and says whether it did.
	Ensure(ctx context.Context, req *volume.CreateRequest) (v *volume.Volume, created bool, err error)
	Inspect(ctx context.Context, name string) (*volume.Volume, error)
	Remove(ctx context.Context, name string, force bool) error
	// Hold keeps a volume from being removed until Drop.
	Hold(name, container string) error
	Drop(name, container string)
	// Holders are the containers that hold it.
	Holders(name string) []string
	// Mount returns the directory of a volume, which is in use until Unmount.
	Mount(ctx context.Context, name, container string) (*os.File, error)
	Unmount(ctx context.Context, name, container string) error
	// InUse is Mount that was called by a daemon before this one.
	InUse(ctx context.Context, name, container string) error
	// Settle ends what nobody uses; it is called when all containers have been found again.
	Settle(ctx context.Context) error
}
