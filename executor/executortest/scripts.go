package executortest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
)

// The suite's processes are run by /bin/sh of the root. Each script has a Go function that does the same, for the Fake.
const (
	scriptStreams = `echo out; echo err >&2; exit 3`
	scriptCat     = `cat`
	scriptSleep   = `echo ready; sleep 100000`
	scriptTrap    = `trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.01; done`
	scriptWrite   = `echo content > /made`
	scriptMuch    = `head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2`
	scriptExec    = `cat /made; echo again > /made; exit 4`
	scriptTrue    = `exit 0`
)

var functions = map[string]Func{
	scriptTrue: func(context.Context, *Proc) int { return 0 },
	scriptStreams: func(_ context.Context, p *Proc) int {
		fmt.Fprintln(p.Stdout, "out")
		fmt.Fprintln(p.Stderr, "err")
		return 3
	},
	scriptCat: func(_ context.Context, p *Proc) int {
		_, _ = io.Copy(p.Stdout, p.Stdin)
		return 0
	},
	scriptSleep: func(ctx context.Context, p *Proc) int {
		fmt.Fprintln(p.Stdout, "ready")
		<-ctx.Done()
		return 0
	},
	scriptTrap: func(ctx context.Context, p *Proc) int {
		fmt.Fprintln(p.Stdout, "ready")
		for {
			select {
			case s := <-p.Signals:
				if s == syscall.SIGTERM {
					fmt.Fprintln(p.Stdout, "caught")
					return 9
				}
			case <-ctx.Done():
				return 0
			}
		}
	},
	scriptWrite: func(_ context.Context, p *Proc) int { return made(p, "content\n") },
	scriptMuch: func(_ context.Context, p *Proc) int {
		_, _ = p.Stdout.Write(bytes.Repeat([]byte{0}, 3000000))
		_, _ = p.Stderr.Write(bytes.Repeat([]byte{0}, 1000000))
		return 0
	},
	scriptExec: func(_ context.Context, p *Proc) int {
		data, err := os.ReadFile(p.Root + "/made")
		if err != nil {
			return 1
		}
		_, _ = p.Stdout.Write(data)
		if code := made(p, "again\n"); code != 0 {
			return code
		}
		return 4
	},
}

func made(p *Proc, content string) int {
	if err := os.WriteFile(p.Root+"/made", []byte(content), 0o644); err != nil {
		return 1
	}
	return 0
}

// Shell is the Func of a Fake that is to pass the suite: it knows the suite's scripts, and ends with 127 for others.
func Shell(ctx context.Context, p *Proc) int {
	if a := p.Process.Args; len(a) == 3 && a[1] == "-c" && functions[a[2]] != nil {
		return functions[a[2]](ctx, p)
	}
	fmt.Fprintln(p.Stderr, "unknown script")
	return 127
}
