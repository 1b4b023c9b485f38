package container

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/template"
	"time"
)

// A logInfo is what the template of a log's tag can name: the fields and methods that docker has.
type logInfo struct {
	Config              map[string]string
	ContainerID         string
	ContainerName       string
	ContainerEntrypoint string
	ContainerArgs       []string
	ContainerImageID    string
	ContainerImageName  string
	ContainerCreated    time.Time
	ContainerEnv        []string
	ContainerLabels     map[string]string
	DaemonName          string
}

func newLogInfo(rec *record) *logInfo {
	path, args := rec.command()
	return &logInfo{
		Config: rec.HostConfig.LogConfig.Config, ContainerID: rec.ID, ContainerName: "/" + rec.Name,
		ContainerEntrypoint: path, ContainerArgs: args, ContainerImageID: string(rec.Image), ContainerImageName: rec.Config.Image,
		ContainerCreated: rec.Created, ContainerEnv: rec.Config.Env, ContainerLabels: rec.Config.Labels, DaemonName: "boxbuild",
	}
}

// ID is the short ID of the container.
func (i *logInfo) ID() string { return short(i.ContainerID) }

// FullID is the ID of the container.
func (i *logInfo) FullID() string { return i.ContainerID }

// Name is the container's, without a slash.
func (i *logInfo) Name() string { return trimSlash(i.ContainerName) }

// ImageID is the short ID of the image.
func (i *logInfo) ImageID() string {
	_, id, _ := strings.Cut(i.ContainerImageID, ":")
	return short(id)
}

// ImageFullID is the ID of the image.
func (i *logInfo) ImageFullID() string { return i.ContainerImageID }

// ImageName is what the user called the image.
func (i *logInfo) ImageName() string { return i.ContainerImageName }

// Command is the entry point with all arguments.
func (i *logInfo) Command() string {
	return strings.Join(append([]string{i.ContainerEntrypoint}, i.ContainerArgs...), " ")
}

// tagFuncs are the functions of docker's templates.
var tagFuncs = template.FuncMap{
	"json": func(v any) (string, error) {
		b, err := json.Marshal(v)
		return string(b), err
	},
	"split": strings.Split,
	"join":  strings.Join,
	"lower": strings.ToLower,
	"upper": strings.ToUpper,
	"title": func(s string) string {
		words := strings.Fields(s)
		for i, w := range words {
			words[i] = strings.ToUpper(w[:1]) + w[1:]
		}
		return strings.Join(words, " ")
	},
	"pad": func(s string, before, after int) string {
		if s == "" {
			return s
		}
		return strings.Repeat(" ", max(before, 0)) + s + strings.Repeat(" ", max(after, 0))
	},
	"truncate": func(s string, n int) string { return s[:min(max(n, 0), len(s))] },
}

// logTag carries out the template of a tag.
func logTag(text string, info *logInfo) (string, error) {
	t, err := template.New("log-tag").Funcs(tagFuncs).Parse(text)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, info); err != nil {
		return "", fmt.Errorf("making the tag: %w", err)
	}
	return b.String(), nil
}
