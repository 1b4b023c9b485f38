package dockerfile

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

// expose applies EXPOSE. Each word is expanded and may become several.
func (st *state) expose(c *instructions.ExposeCommand) error {
	var ports []string
	for _, p := range c.Ports {
		m := newMeter(st.vars, p)
		words, err := st.t.doc.lex.ProcessWords(p, m)
		if err == nil {
			err = m.err(p)
		}
		if err == nil {
			err = st.t.budget.match(m.steps())
		}
		if err != nil {
			return err
		}
		for _, w := range words {
			spec, err := splitPort(w)
			if err != nil {
				return err
			}
			spec.lint(w, c, st.lint)
			if err := spec.check(); err != nil {
				return err
			}
			if err := st.t.budget.spend(50 * (spec.last - spec.first + 1)); err != nil {
				return err
			}
			ports = append(ports, spec.list()...)
		}
	}
	cfg := &st.img.Config
	if cfg.ExposedPorts == nil {
		cfg.ExposedPorts = map[string]struct{}{}
	}
	for _, p := range ports {
		cfg.ExposedPorts[p] = struct{}{}
	}
	return st.record(fmt.Sprintf("EXPOSE %v", ports), false)
}

// A port is what one word of EXPOSE says: "[[ip:]host:]first[-last][/proto]". An address and a host port are accepted
// and mean nothing.
type port struct {
	ip, host, container string
	proto               string // as it is written; "tcp" if it is not
	first, last         int
}

// list returns the ports as a configuration has them.
func (p *port) list() []string {
	out := make([]string, 0, p.last-p.first+1)
	for n := p.first; n <= p.last; n++ {
		out = append(out, strconv.Itoa(n)+"/"+strings.ToLower(p.proto))
	}
	return out
}

func (p *port) lint(word string, c instructions.Command, l *linter.Linter) {
	if p.proto != strings.ToLower(p.proto) {
		rule := &linter.RuleExposeProtoCasing
		l.Run(rule, c.Location(), rule.Format(word))
	}
	if p.ip != "" || p.host != "" {
		rule := &linter.RuleExposeInvalidFormat
		l.Run(rule, c.Location(), rule.Format(word))
	}
}

// splitPort takes a word apart.
func splitPort(word string) (*port, error) {
	parts := strings.Split(word, ":")
	n := len(parts)
	p := &port{proto: "tcp"}
	if n > 1 {
		p.host = parts[n-2]
	}
	if n > 2 {
		p.ip = strings.Join(parts[:n-2], ":")
	}
	var proto string
	p.container, proto, _ = strings.Cut(parts[n-1], "/")
	if p.container == "" {
		return nil, fmt.Errorf("invalid port: %q: no port specified", word)
	}
	switch strings.ToLower(proto) {
	case "":
	case "tcp", "udp", "sctp":
		p.proto = proto
	default:
		return nil, fmt.Errorf("invalid port: %q: invalid proto: %s", word, proto)
	}
	return p, nil
}

// check parses the parts.
func (p *port) check() error {
	if err := checkIP(p.ip); err != nil {
		return err
	}
	var err error
	if p.first, p.last, err = portRange(p.container); err != nil {
		return errors.New("invalid containerPort: " + p.container)
	}
	if p.host == "" {
		return nil
	}
	first, last, err := portRange(p.host)
	if err != nil {
		return errors.New("invalid hostPort: " + p.host)
	}
	if p.last != p.first && p.last-p.first != last-first {
		return fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", p.container, p.host)
	}
	return nil
}

func checkIP(ip string) error {
	if ip == "" {
		return nil
	}
	bare := ip
	if ip[0] == '[' {
		host, _, err := net.SplitHostPort(ip + ":")
		if err != nil {
			return fmt.Errorf("invalid IP address %v: %w", ip, err)
		}
		bare = host
	}
	if net.ParseIP(bare) == nil {
		return errors.New("invalid IP address: " + bare)
	}
	return nil
}

// portRange parses "80" or "80-90".
func portRange(s string) (first, last int, err error) {
	a, b, ok := strings.Cut(s, "-")
	if first, err = portNumber(a); err != nil || !ok {
		return first, first, err
	}
	if last, err = portNumber(b); err == nil && last < first {
		err = errors.New("invalid port range: " + s)
	}
	return first, last, err
}

func portNumber(s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 0)
	if err == nil && (n < 0 || n > 65535) {
		err = errors.New("value out of range (0–65535)")
	}
	return int(n), err
}
