package solver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// lookup asks the cache for k. A record that cannot be what a vertex with that many outputs left behind is no record.
// An error of the cache is not one of the build: it is returned to be shown as a warning, and there is no hit.
func (s *Solver) lookup(ctx context.Context, k Key, outputs int) (out []Result, ok bool, warn error) {
	err := protect(func() (err error) {
		out, err = s.cache.Get(ctx, k)
		return err
	})
	switch {
	case err == nil:
		return out, out != nil && len(out) == outputs, nil
	case errors.Is(err, ErrMiss), ctx.Err() != nil:
		return nil, false, nil
	}
	return nil, false, fmt.Errorf("looking up a cache record: %w", err)
}

// record puts out under k and describes it. As with lookup, an error is only a warning.
func (s *Solver) record(ctx context.Context, k Key, out []Result, rec Record) (warn error) {
	err := protect(func() error {
		if err := s.cache.Put(ctx, k, out); err != nil {
			return err
		}
		if s.describer != nil {
			s.describer.Describe(ctx, k, rec)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("writing a cache record: %w", err)
	}
	return nil
}

// hold holds every result of out. It returns ErrMiss when one of them is gone.
func (s *Solver) hold(ctx context.Context, out []Result) error {
	return protect(func() error {
		for _, r := range out {
			if err := s.runner.Hold(ctx, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// find returns the results recorded under k if there are any and all could be held.
func (b *build) find(ctx context.Context, k Key, outputs int) (out []Result, ok bool, warn error) {
	out, ok, warn = b.s.lookup(ctx, k, outputs)
	if !ok {
		return nil, false, warn
	}
	switch err := b.hold(out); {
	case err == nil:
		return out, true, nil
	case errors.Is(err, ErrMiss), ctx.Err() != nil:
		return nil, false, nil
	default:
		return nil, false, fmt.Errorf("holding a cached result: %w", err)
	}
}

// A stepKey is what hashing the inputs of a vertex yields.
type stepKey struct {
	key  Key
	doc  string
	lost []int // the inputs that were found gone; key and doc are not set then
}

// hash computes the step key of v on the inputs in, of which there is one at least.
func (s *Solver) hash(ctx context.Context, v *Vertex, in []Result) (k stepKey, err error) {
	err = protect(func() (err error) {
		k, err = s.hashInputs(ctx, v, in)
		return err
	})
	return k, err
}

func (s *Solver) hashInputs(ctx context.Context, v *Vertex, in []Result) (k stepKey, err error) {
	var h Hasher
	if c, ok := v.op.(ByContent); ok {
		c.WriteStepKey(&h, v.inputs)
	} else {
		h.doc.WriteString(v.doc[:v.opLen])
	}
	for i, r := range in {
		name := "input." + strconv.Itoa(i)
		sel := v.inputs[i].Select
		if sel == nil {
			h.Result(name, r)
			continue
		}
		d, err := s.runner.Digest(ctx, r, sel)
		switch {
		case errors.Is(err, ErrMiss):
			k.lost = append(k.lost, i)
		case err != nil:
			return k, &InputError{Input: i, Err: err}
		}
		h.Digest(name, d)
	}
	if k.lost == nil {
		k.doc, k.key = h.Document(), h.Sum()
	}
	return k, nil
}

// describe is the record of a key of v.
func describe(v *Vertex, doc string, took time.Duration) Record {
	return Record{Document: doc, Name: v.Name(), Recipe: v.key, Duration: took}
}
