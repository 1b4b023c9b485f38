package builder

import (
	"fmt"

	"github.com/boxbuild/boxbuild/frontend"
	"github.com/boxbuild/boxbuild/solver"
	"github.com/boxbuild/boxbuild/solver/op"
)

// checkWindows refuses a build that changes or reads the files of an image for Windows. Layers of such images keep files
// below a directory "Files", beside registry hives, and say of each what only Windows knows. An image of a Linux layer on
// top of those would be taken for whole, and start nowhere. Images for Windows that begin with nothing are unlike them:
// their layers are as any other's, as with BuildKit.
func checkWindows(out *frontend.Output) error {
	for i := range out.Images {
		img := &out.Images[i]
		if img.Root == nil {
			continue
		}
		seen := map[*solver.Vertex]bool{}
		todo := []*solver.Vertex{img.Root.Vertex}
		for len(todo) > 0 {
			v := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			for _, in := range v.Inputs() {
				if isWindows(in.Vertex.Op(), img) {
					return windowsError(v, in.Vertex.Op(), out)
				}
				if !seen[in.Vertex] {
					seen[in.Vertex] = true
					todo = append(todo, in.Vertex)
				}
			}
		}
	}
	return nil
}

// isWindows says whether o is an image for Windows: it was asked for as one, or is the base of img and says so itself.
func isWindows(o solver.Op, img *frontend.Image) bool {
	base, ok := o.(*op.Image)
	return ok && (base.Platform.OS == "windows" ||
		img.Base != nil && img.BaseConfig != nil && img.BaseConfig.OS == "windows" && base.Ref == img.Base.Ref && base.Digest == img.Base.Digest)
}

func windowsError(v *solver.Vertex, image solver.Op, out *frontend.Output) error {
	err := fmt.Errorf("%s is an image for Windows: files cannot be copied into it or out of it here, since its layers have a form of their own", image)
	m := v.Meta()
	if len(m.Source) == 0 {
		return err
	}
	file, text := out.File, out.Text
	if m.Text != nil { // a graph of several files
		file, text = m.File, m.Text
	}
	return &frontend.SourceError{File: file, Text: text, Ranges: m.Source, Err: err}
}
