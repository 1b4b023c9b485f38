package filesync

const (
	// doubtful is up to which size a file is sent again rather than believed. Who writes a larger one takes longer than a
	// tick of the clock, and not as long as whoever writes another of that size.
	doubtful = 1 << 20
	// credible is how many files must be as they were to make it credible that the directory is the one that it was.
	credible = 64
)

// A doubt is a file that seems to be what it was.
type doubt struct {
	number int // of its Add, from 0
	file   *IncomingFile
}

// trust notes that the content of a file was taken to be what it was.
func (in *Intake) trust(n *node, i int) {
	e := &n.entries[i]
	if in.trusted++; in.req.Shared && e.Size > 0 && e.Size <= doubtful {
		in.doubts = append(in.doubts, doubt{in.entries - 1, &IncomingFile{in: in, n: n, i: i, path: e.Path, size: e.Size}})
	}
}

// Doubted returns, once everything has been added, the files that have to come after all, by the numbers of their Adds from
// 0. They are those of a directory that may be another than the one that came last under a key which is Shared.
//
// The clock that stamps files ticks every few milliseconds only. Of directories that are made at the same time, as by
// jobs that check out at once, some files have the same size and the same time by chance, and another content. By chance it
// is never most of them: if most files are as they were, so are all. A small directory proves nothing, and is soon sent.
func (in *Intake) Doubted() map[int]*IncomingFile {
	doubts := in.doubts
	in.doubts = nil
	if in.trusted >= credible && in.asked <= in.trusted/2 {
		return nil
	}
	out := make(map[int]*IncomingFile, len(doubts))
	for _, d := range doubts {
		out[d.number] = d.file
	}
	in.wanted += len(out)
	return out
}
