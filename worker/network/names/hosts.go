// Package names is how containers find others: their /etc/hosts and /etc/resolv.conf, the variables of legacy links, and the
// DNS server at 127.0.0.11 in the namespaces of containers on networks that users have made.
//
// A Server is made for one container's namespace and owns its goroutines; Close waits for them. Its locks guard tables and
// are held for no I/O.
package names

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Host is a line of /etc/hosts.
type Host struct {
	Addr  netip.Addr
	Names []string
}

// Hosts returns /etc/hosts of a container: what every one has, what the user has added, links and its own addresses.
func Hosts(lines []Host) []byte {
	b := bytes.NewBufferString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\n" +
		"ff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	AppendHosts(b, lines)
	return b.Bytes()
}

// AppendHosts writes lines as in /etc/hosts.
func AppendHosts(b *bytes.Buffer, lines []Host) {
	for _, l := range lines {
		fmt.Fprintf(b, "%s\t%s\n", l.Addr, strings.Join(l.Names, " "))
	}
}

// Own returns a container's own line for each of its addresses.
func Own(addrs []netip.Addr, hostname, domain string) []Host {
	if hostname == "" {
		return nil
	}
	all := []string{hostname}
	if domain != "" {
		all = []string{hostname + "." + domain, hostname}
	} else if short, _, long := strings.Cut(hostname, "."); long {
		all = []string{hostname, short}
	}
	var out []Host
	for _, a := range addrs {
		out = append(out, Host{Addr: a, Names: all})
	}
	return out
}

// HostGateway is what users write for the address of the host.
const HostGateway = "host-gateway"

// ParseExtra reads the values of --add-host: "name:address" or "name=address". The address of the host is gateways.
func ParseExtra(list []string, gateways []netip.Addr) ([]Host, error) {
	var out []Host
	for _, s := range list {
		name, addr, ok := strings.Cut(s, ":")
		if i := strings.IndexByte(s, '='); i >= 0 && (!ok || i < len(name)) {
			name, addr, ok = s[:i], s[i+1:], true
		}
		if !ok || name == "" || strings.ContainsAny(name, " \t\r\n#") {
			return nil, fmt.Errorf("bad format for add-host: %q", s)
		}
		if addr == HostGateway {
			if len(gateways) == 0 {
				return nil, fmt.Errorf("unable to derive the IP value for %s", HostGateway)
			}
			for _, g := range gateways {
				out = append(out, Host{Addr: g, Names: []string{name}})
			}
			continue
		}
		a, err := netip.ParseAddr(strings.Trim(addr, "[]"))
		if err != nil {
			return nil, fmt.Errorf("invalid IP address in add-host: %q", addr)
		}
		out = append(out, Host{Addr: a, Names: []string{name}})
	}
	return out, nil
}

// A Link is a container that another has a legacy link to.
type Link struct {
	Alias, Name, Hostname string // Name is the container's
	Own                   string // the name of the container that has the link
	Addr                  netip.Addr
	Ports                 []string // "80/tcp"
	Env                   []string // of the container that is linked
}

// Host is the link's line in /etc/hosts.
func (l *Link) Host() Host {
	all := []string{l.Alias}
	for _, n := range []string{l.Hostname, l.Name} {
		if n != "" && !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	return Host{Addr: l.Addr, Names: all}
}

// notPassed are variables of every container, which say nothing of what is linked.
var notPassed = []string{"HOME", "PATH"}

// Variables are what docker sets for a link: ALIAS_NAME, ALIAS_PORT and the parts of that for every port, and ALIAS_ENV_X for
// each variable X of the other container's.
func (l *Link) Variables() []string {
	alias := strings.ReplaceAll(strings.ToUpper(l.Alias), "-", "_")
	out := []string{fmt.Sprintf("%s_NAME=/%s/%s", alias, l.Own, l.Alias)}
	ports := slices.Clone(l.Ports)
	slices.SortFunc(ports, comparePorts)
	for i, p := range ports {
		num, proto, _ := strings.Cut(p, "/")
		url := fmt.Sprintf("%s://%s:%s", proto, l.Addr, num)
		if i == 0 {
			out = append(out, fmt.Sprintf("%s_PORT=%s", alias, url))
		}
		prefix := fmt.Sprintf("%s_PORT_%s_%s", alias, num, strings.ToUpper(proto))
		out = append(out, prefix+"="+url, fmt.Sprintf("%s_ADDR=%s", prefix, l.Addr), prefix+"_PORT="+num, prefix+"_PROTO="+proto)
	}
	for _, e := range l.Env {
		name, value, ok := strings.Cut(e, "=")
		if ok && !slices.Contains(notPassed, name) {
			out = append(out, fmt.Sprintf("%s_ENV_%s=%s", alias, name, value))
		}
	}
	return out
}

// comparePorts orders by number, and TCP first.
func comparePorts(a, b string) int {
	numA, protoA, _ := strings.Cut(a, "/")
	numB, protoB, _ := strings.Cut(b, "/")
	if len(numA) != len(numB) {
		return len(numA) - len(numB)
	}
	if c := strings.Compare(numA, numB); c != 0 {
		return c
	}
	if protoA == protoB {
		return 0
	}
	if protoA == "tcp" {
		return -1
	}
	if protoB == "tcp" {
		return 1
	}
	return strings.Compare(protoA, protoB)
}
