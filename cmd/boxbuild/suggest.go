package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// unknownCommand says that parent has no command of that name, and which it may be that is meant.
func unknownCommand(parent *cobra.Command, name string) string {
	var names []string
	for _, c := range parent.Commands() {
		if c.IsAvailableCommand() {
			names = append(append(names, c.Name()), c.Aliases...)
		}
	}
	text := fmt.Sprintf("%s: unknown command: %s %s", parent.Root().Name(), parent.CommandPath(), name)
	if near := nearest(name, names); near != "" {
		text += fmt.Sprintf("\n\nDid you mean '%s %s'?", parent.CommandPath(), near)
	}
	return text
}

// badFlags says what is wrong with the flags of a command, in docker's words, and which flag may be meant by one that it does
// not have.
func badFlags(cmd *cobra.Command, err error) string {
	text := err.Error()
	if near := nearestFlag(cmd, err); near != "" {
		text += fmt.Sprintf("\n\nDid you mean '--%s'?", near)
	}
	return fmt.Sprintf("%s\n\nUsage:  %s\n\nRun '%s --help' for more information", text, firstLine(cmd.UseLine()), cmd.CommandPath())
}

// nearestFlag is the flag that is meant by one that there is not, be it misspelt or a long one with a single dash.
func nearestFlag(cmd *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return ""
	}
	name, short := unknown.GetSpecifiedName(), unknown.GetSpecifiedShortnames()
	if short != "" {
		name, _, _ = strings.Cut(short, "=")
	}
	if len(name) < 2 {
		return ""
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return nearest(name, names)
}

// nearest returns the one of names that a misspelt word most likely means, "" if none is near: at most a third of its letters are
// wrong. Of equally near ones it is the first.
func nearest(word string, names []string) string {
	best, found := max(1, len(word)/3)+1, ""
	for _, n := range names {
		if d := distance(strings.ToLower(word), n); d < best {
			best, found = d, n
		}
	}
	return found
}

// distance is how many bytes have to be put in, left out, replaced or swapped with their neighbour to make b of a.
func distance(a, b string) int {
	// The rows of the table for the last two bytes of a, and the one that is made.
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			replaced := last[j]
			if a[i] != b[j] {
				replaced++
			}
			row[j+1] = min(replaced, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
