package executor

// Devices are devices that sandboxes are given by name. It is safe for concurrent use.
type Devices interface {
	// Find returns the devices that name stands for; there may be none.
	Find(name string) ([]NamedDevice, error)
	// Inject adds to spec what devices need whose names Find has returned. done closes what was opened for it, when the
	// sandbox has been started or will not be; it is nil with an error.
	Inject(spec *Spec, names []string) (done func(), err error)
}

// A NamedDevice is one of Devices.
type NamedDevice struct {
	Name        string // in full
	AutoAllowed bool   // whoever asks may have it
}
