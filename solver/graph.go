package solver

// An identity is what makes two vertices of a build one node: the same computation with the same use of the cache. That
// an input ignores the cache counts too, as it takes the recipe key from everything above it.
type identity struct {
	recipe Key
	policy policy
	fresh  bool
}

// A plan is the nodes of a build in depth-first order, inputs first.
type plan struct {
	nodes    []*node
	byVertex map[*Vertex]*node
	byID     map[identity]*node
}

// plan makes the nodes of everything that the targets reach. It looks at no cache. It keeps its own stack, since
// graphs may be deeper than is good for the goroutine's.
func newPlan(targets []Input) *plan {
	p := &plan{byVertex: make(map[*Vertex]*node), byID: make(map[identity]*node)}
	type frame struct {
		v    *Vertex
		next int // the input to visit next
	}
	var stack []frame
	for _, t := range targets {
		stack = append(stack, frame{v: t.Vertex})
		for len(stack) > 0 {
			f := &stack[len(stack)-1]
			switch {
			case p.byVertex[f.v] != nil:
				stack = stack[:len(stack)-1]
			case f.next < len(f.v.inputs):
				in := f.v.inputs[f.next].Vertex
				f.next++
				if p.byVertex[in] == nil {
					stack = append(stack, frame{v: in})
				}
			default:
				p.add(f.v)
				stack = stack[:len(stack)-1]
			}
		}
	}
	return p
}

// add makes the node of v, whose inputs have theirs, or finds the one that v shares with an equal vertex.
func (p *plan) add(v *Vertex) {
	id := identity{recipe: v.key, fresh: v.meta.IgnoreCache}
	for _, in := range v.inputs {
		id.fresh = id.fresh || p.byVertex[in.Vertex].fresh
	}
	switch e, ok := v.op.(Ephemeral); {
	case ok && e.Ephemeral():
		id.policy = noRecord
	case v.meta.IgnoreCache:
		id.policy = useNone
	case id.fresh:
		id.policy = useStep
	}
	if n := p.byID[id]; n != nil {
		p.byVertex[v] = n
		return
	}
	n := &node{v: v, order: len(p.nodes), policy: id.policy, fresh: id.fresh}
	if len(v.inputs) > 0 {
		n.inputs = make([]*node, len(v.inputs))
		for i, in := range v.inputs {
			n.inputs[i] = p.byVertex[in.Vertex]
		}
	}
	p.nodes = append(p.nodes, n)
	p.byVertex[v], p.byID[id] = n, n
}
