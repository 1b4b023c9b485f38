package builder

import (
	"context"
	"fmt"

	"github.com/boxbuild/boxbuild/worker"
)

func (b *Builder) exportArchive(ctx context.Context, images []*built, p *plan, em *emitter, res *worker.BuildResult) error {
	return fmt.Errorf("x")
}

func (b *Builder) exportFiles(ctx context.Context, images []*built, p *plan, em *emitter) error {
	return fmt.Errorf("x")
}
