package solver

import "fmt"

// A state is how far a build is with one of its vertices. States are ordered: a node only moves up, except that a loss
// sends it back. DESIGN.md has the diagram.
type state uint8

const (
	idle    state = iota // nothing needs it so far; most vertices under a cache hit stay here
	probing              // its recipe key is being looked up
	waiting              // its inputs are being found
	hashing              // its step key is being computed and looked up
	running              // it waits for the flight of its step
	done                 // its results are known and held
	failed               // it failed, or was given up
)

var stateNames = [...]string{"idle", "probing", "waiting", "hashing", "running", "done", "failed"}

func (s state) String() string { return stateNames[s] }

// next has, for each state, the set of states that may follow.
var next = [...]uint8{
	idle:    1 << probing,
	probing: 1<<waiting | 1<<done | 1<<failed,
	waiting: 1<<hashing | 1<<running | 1<<failed, // straight to running when there is nothing to hash or look up
	hashing: 1<<running | 1<<done | 1<<failed | 1<<waiting,
	running: 1<<done | 1<<failed | 1<<waiting,
	done:    1 << probing, // its results were lost
	failed:  0,
}

// active says whether a node in state s is being worked on.
func (s state) active() bool { return s > idle && s < done }

// A policy says what the cache is used for with one vertex. Each value allows less than the one before it.
type policy uint8

const (
	useAll   policy = iota // looked up by recipe and by step
	useStep                // an input is never answered from the cache, so a recipe hit must not bypass it
	useNone                // Meta.IgnoreCache: never looked up, but recorded
	noRecord               // Ephemeral: neither looked up nor recorded
)

// A node is a vertex in a build. The goroutine that owns the build owns its nodes; jobs get copies of what they need.
type node struct {
	v      *Vertex
	inputs []*node // parallel to v.inputs
	order  int     // its place in depth-first order, inputs before what consumes them
	policy policy
	fresh  bool // it or something below it ignores the cache
	state  state
	told   EventKind // the last event of Declared, Started and the final ones; they are in the order in which they come
	out    []Result  // when done

	pending int     // when waiting: how many inputs are not done
	waiters []*node // when not done: who is waiting, once for each input
	m       *member // of a flight: when running, and after that until settled
	cause   *node   // when hashing: the input whose being done made it so
	effects int     // how many nodes have this one as cause
	asOf    uint64  // when hashing or running: the build's clock when it looked at its inputs
	doneAt  uint64  // when done: the build's clock
	losses  int     // how often in a row it has found something lost
	lost    int     // how often its own results have been lost
}

// trusts says whether the cache may be asked. A record whose result was held and still found gone twice is not asked
// for a third time, so that a cache and a Runner that disagree cannot keep a build in a loop.
func (n *node) trusts(p policy) bool { return n.policy <= p && n.lost < 2 }

// move changes the state of n. Nothing else does.
func (b *build) move(n *node, to state) {
	if next[n.state]&(1<<to) == 0 {
		panic(fmt.Sprintf("solver: %q moves from %v to %v", n.v.Name(), n.state, to))
	}
	if n.state.active() {
		b.active--
	}
	if to.active() {
		b.active++
	}
	n.state = to
}
