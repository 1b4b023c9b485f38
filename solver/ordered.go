package solver

// An ordered is a heap of values: the one with the lowest order comes out first and, of equals, the one that went in
// first. The zero value is empty. It is not safe for concurrent use.
type ordered[T any] struct {
	items []orderedItem[T]
	seq   uint64
}

type orderedItem[T any] struct {
	order int
	seq   uint64
	value T
}

func (q *ordered[T]) len() int { return len(q.items) }

func (q *ordered[T]) less(i, j int) bool {
	a, b := &q.items[i], &q.items[j]
	return a.order < b.order || a.order == b.order && a.seq < b.seq
}

func (q *ordered[T]) push(order int, value T) {
	q.seq++
	q.items = append(q.items, orderedItem[T]{order, q.seq, value})
	for i := len(q.items) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.less(i, up) {
			break
		}
		q.items[i], q.items[up] = q.items[up], q.items[i]
		i = up
	}
}

// pop removes the first value and returns it with its order. The queue must not be empty.
func (q *ordered[T]) pop() (order int, value T) {
	top, last := q.items[0], len(q.items)-1
	q.items[0] = q.items[last]
	q.items[last] = orderedItem[T]{} // what was popped must not be kept alive by the heap
	q.items = q.items[:last]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < last; c++ {
			if q.less(c, least) {
				least = c
			}
		}
		if least == i {
			break
		}
		q.items[i], q.items[least] = q.items[least], q.items[i]
		i = least
	}
	return top.order, top.value
}
