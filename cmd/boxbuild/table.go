package main

import (
	"io"

	"github.com/docker/cli/cli/command/formatter"
)

// writeRows prints rows as docker prints lists: as a table, as JSON, or by a template of the user's. Templates see the
// fields of R.
func writeRows[R formatter.SubContext](out io.Writer, format string, rows []R) error {
	var header R
	ctx := formatter.Context{Output: out, Format: formatter.Format(format)}
	return ctx.Write(header, func(write func(formatter.SubContext) error) error {
		for _, r := range rows {
			if err := write(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// writeList prints items as docker prints lists, each as the row that row makes of it, under header.
func writeList[T any](ctx formatter.Context, header formatter.SubHeaderContext, items []T, row func(T) formatter.SubContext) error {
	return ctx.Write(&formatter.HeaderContext{Header: header}, func(write func(formatter.SubContext) error) error {
		for _, it := range items {
			if err := write(row(it)); err != nil {
				return err
			}
		}
		return nil
	})
}
