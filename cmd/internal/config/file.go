package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// readFile lays the file at path over d. It is strict: a key that means nothing is an error that names its line, since
// a setting that is misspelt would otherwise be a setting that is silently not made.
func (d *Daemon) readFile(path string, required bool) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return nil
	} else if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	var wrong *toml.DecodeError
	switch err := toml.NewDecoder(bytes.NewReader(text)).EnableUnmarshalerInterface().Decode(d); {
	case errors.As(err, &wrong):
		row, column := wrong.Position()
		return fmt.Errorf("%s:%d:%d: %w", path, row, column, wrong)
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	}
	return d.checkKeys(path, text)
}

// checkKeys looks up every key of a file that can be read.
func (d *Daemon) checkKeys(path string, text []byte) error {
	w := walk{path: path, daemon: d, told: map[string]bool{}}
	w.parser.Reset(text)
	var table []string
	for w.parser.NextExpression() {
		switch e := w.parser.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			var row int
			table, row = w.name(e.Key())
			w.table(table, row)
		case unstable.KeyValue:
			w.value(table, e)
		default: // a comment
		}
	}
	return errors.Join(append(w.errs, w.parser.Error())...)
}

// A walk goes through the keys of a file.
type walk struct {
	path   string
	daemon *Daemon
	parser unstable.Parser
	told   map[string]bool // what the user has been told, without the line
	errs   []error
}

// name returns the parts of a key and its line.
func (w *walk) name(it unstable.Iterator) (parts []string, row int) {
	for it.Next() {
		n := it.Node()
		parts = append(parts, string(n.Data))
		row = w.parser.Shape(n.Raw).Start.Line
	}
	return parts, row
}

// table checks the name of a table: an empty one sets nothing, but a misspelt one is as wrong as a key.
func (w *walk) table(parts []string, row int) {
	for _, k := range Keys {
		pattern := k.parts()
		// What a table can hold is not known here: any name will do for the rest. One of what is below "**" may have more parts.
		for n := len(parts); n <= max(len(parts), len(pattern)); n++ {
			if k.matches(append(parts[:len(parts):len(parts)], pattern[len(pattern)-(n-len(parts)):]...)) {
				return
			}
		}
	}
	w.errs = append(w.errs, fmt.Errorf("%s:%d: unknown key %s", w.path, row, strings.Join(parts, ".")))
}

// value looks up the key of e, or those of the tables that are its value.
func (w *walk) value(table []string, e *unstable.Node) {
	name, row := w.name(e.Key())
	parts := append(table[:len(table):len(table)], name...)
	if v := e.Value(); w.nested(parts, v) {
		return
	}
	w.key(parts, row, e.Value())
}

// nested goes through inline tables, alone or in an array; false if v is anything else.
func (w *walk) nested(parts []string, v *unstable.Node) bool {
	if v.Kind != unstable.InlineTable && v.Kind != unstable.Array {
		return false
	}
	found := false
	for it := v.Children(); it.Next(); {
		switch n := it.Node(); n.Kind {
		case unstable.KeyValue:
			found = true
			w.value(parts, n)
		case unstable.InlineTable:
			found = w.nested(parts, n) || found
		default: // an element of an array
		}
	}
	return found
}

func (w *walk) key(parts []string, row int, v *unstable.Node) {
	name := strings.Join(parts, ".")
	s := setting{where: fmt.Sprintf("%s:%d: %s", w.path, row, name)}
	switch v.Kind {
	case unstable.String, unstable.Bool, unstable.Integer:
		s.value = string(v.Data)
	default: // no setting is refused for such a value
	}
	for _, k := range Keys {
		if !k.matches(parts) {
			continue
		}
		warning, err := take(s, k.Use, k.Only, k.Note)
		if err == nil && (name == "cgroup-parent" || name == "worker.oci.defaultCgroupParent") {
			if err = checkCgroup(s.value); err != nil {
				err = fmt.Errorf("%s: %w", s.where, err)
			}
		}
		switch {
		case err != nil:
			w.errs = append(w.errs, err)
		case warning != "" && !w.told[name]:
			w.told[name] = true
			w.daemon.Warnings = append(w.daemon.Warnings, warning)
		}
		return
	}
	w.errs = append(w.errs, fmt.Errorf("%s:%d: unknown key %s", w.path, row, name))
}
