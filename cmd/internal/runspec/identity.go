package runspec

import (
	"errors"
	"fmt"

	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"
)

// identity is what others know the container by, and where they read what it says.
type identity struct {
	hostname, domainname string
	labels, labelFiles   opts.ListOpts
	annotations          *opts.MapOpts
	cidFile              string
	logDriver            string
	logOpts              opts.ListOpts
	runtime              string
}

func (i *identity) register(fs *pflag.FlagSet) {
	i.labels, i.labelFiles = opts.NewListOpts(opts.ValidateLabel), opts.NewListOpts(nil)
	i.annotations = opts.NewMapOpts(nil, nil)
	i.logOpts = opts.NewListOpts(nil)
	fs.StringVarP(&i.hostname, "hostname", "h", "", "Container host name")
	fs.StringVar(&i.domainname, "domainname", "", "Container NIS domain name")
	fs.VarP(&i.labels, "label", "l", "Set meta data on a container")
	fs.Var(&i.labelFiles, "label-file", "Read in a line delimited file of labels")
	fs.Var(i.annotations, "annotation", "Add an annotation to the container (passed through to the OCI runtime)")
	fs.StringVar(&i.cidFile, "cidfile", "", "Write the container ID to the file")
	fs.StringVar(&i.logDriver, "log-driver", "", "Logging driver for the container")
	fs.Var(&i.logOpts, "log-opt", "Log driver options")
	fs.StringVar(&i.runtime, "runtime", "", "Runtime to use for this container")
}

func (i *identity) apply(req *container.CreateRequest, _ *pflag.FlagSet) error {
	labels, err := opts.ReadKVStrings(i.labelFiles.GetSlice(), i.labels.GetSlice())
	if err != nil {
		return fmt.Errorf("--label-file: %w", err)
	}
	if i.logDriver == "none" && i.logOpts.Len() > 0 {
		return errors.New("invalid logging opts for driver none")
	}
	req.Hostname, req.Domainname = i.hostname, i.domainname
	req.Labels = opts.ConvertKVStringsToMap(labels)
	h := req.HostConfig
	h.Annotations, h.ContainerIDFile, h.Runtime = i.annotations.GetAll(), i.cidFile, i.runtime
	h.LogConfig = container.LogConfig{Type: i.logDriver, Config: opts.ConvertKVStringsToMap(i.logOpts.GetSlice())}
	return nil
}
