// Package images is the images of a store as a user sees them: it implements worker.Images over snapshots, blobs and
// records, and the passage of layers between blobs and snapshots that builds, pulls and exports share.
//
// Layers is that passage: Unpack turns blobs into snapshots, Layer turns snapshots into exporter.Layers, DiffIDs
// computes diff IDs in the background. Service is worker.Images.
//
// # Life cycle
//
// What an operation makes or uses is held by the lease that its ctx carries until it is in an image's record. A record
// is stored only after what it depends on is on the disk, see Layers.Sync.
//
// # Locks
//
// The mutexes of this package are leaves: none is held while another is taken, or across I/O.
package images
