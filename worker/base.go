package worker

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/boxbuild/boxbuild/snapshot"
)

// basePrefix begins the names of the trees that BaseOf names. It is not hexadecimal, as the names of other trees are.
const basePrefix = "init"

// BaseOf names the tree between that of an image, "" for none, and the writable layers of its containers: what docker calls
// the init layer. All containers of the image share it.
func BaseOf(tree snapshot.ID) snapshot.ID {
	sum := sha256.Sum256([]byte("base of containers 1\n" + string(tree)))
	return snapshot.ID(basePrefix + hex.EncodeToString(sum[:30]))
}

// IsBase says whether BaseOf has named a tree. Such trees take no space to speak of, and are nobody's to ask for.
func IsBase(name string) bool {
	return strings.HasPrefix(name, basePrefix) && len(name) == len(basePrefix)+60
}
