package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/docker/cli/templates"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// eventTime is RFC 3339 with all nine digits, so that columns are as wide as each other.
const eventTime = "2006-01-02T15:04:05.000000000Z07:00"

// inspectHelp is docker's help of --format where there is no table.
const inspectHelp = `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates`

func (a *app) eventsCommand() *cobra.Command {
	filter := opts.NewFilterOpt()
	var since, until, format string
	cmd := &cobra.Command{
		Use:   "events [OPTIONS]",
		Short: "Get real time events from the server",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tmpl, err := eventTemplate(format)
			if err != nil {
				return statusError{exitBadFormat, "Error parsing format: " + err.Error()}
			}
			return a.events(cmd.Context(), tmpl, client.EventsListOptions{Since: since, Until: until, Filters: filter.Value()})
		},
	}
	f := cmd.Flags()
	f.StringVar(&since, "since", "", "Show all events created since timestamp")
	f.StringVar(&until, "until", "", "Stream events until this timestamp")
	f.VarP(&filter, "filter", "f", "Filter output based on conditions provided")
	f.StringVar(&format, "format", "", inspectHelp)
	return cmd
}

// eventTemplate reads --format; nil for docker's own lines. A template that no event can be shown with is refused.
func eventTemplate(format string) (*template.Template, error) {
	switch format {
	case "":
		return nil, nil
	case formatter.JSONFormatKey:
		format = formatter.JSONFormat
	}
	tmpl, err := templates.Parse(format)
	if err != nil {
		return nil, err
	}
	return tmpl, tmpl.Execute(io.Discard, &events.Message{})
}

// events prints what happens in the daemon until the daemon ends it.
func (a *app) events(ctx context.Context, tmpl *template.Template, opt client.EventsListOptions) error {
	api, err := a.engine(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := api.Events(ctx, opt)
	for {
		select {
		case m := <-r.Messages:
			if tmpl == nil {
				fmt.Fprintln(a.stdout, eventLine(&m))
				continue
			}
			if err := tmpl.Execute(a.stdout, m); err != nil {
				return err
			}
			fmt.Fprintln(a.stdout)
		case err := <-r.Err:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// eventLine is an event as docker prints it.
func eventLine(m *events.Message) string {
	var b strings.Builder
	switch {
	case m.TimeNano != 0:
		b.WriteString(time.Unix(0, m.TimeNano).Format(eventTime) + " ")
	case m.Time != 0:
		b.WriteString(time.Unix(m.Time, 0).Format(eventTime) + " ")
	}
	fmt.Fprintf(&b, "%s %s %s", m.Type, m.Action, m.Actor.ID)
	var attrs []string
	for _, k := range slices.Sorted(maps.Keys(m.Actor.Attributes)) {
		attrs = append(attrs, k+"="+m.Actor.Attributes[k])
	}
	if attrs != nil {
		b.WriteString(" (" + strings.Join(attrs, ", ") + ")")
	}
	return b.String()
}
