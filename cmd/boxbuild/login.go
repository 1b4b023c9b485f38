package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

type loginOptions struct {
	server, user, password string
	passwordStdin          bool
}

func (a *app) loginCommand() *cobra.Command {
	var opt loginOptions
	cmd := &cobra.Command{
		Use:                   "login [OPTIONS] [SERVER]",
		Short:                 "Authenticate to a registry",
		Long:                  "Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
		Args:                  maxArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				opt.server = args[0]
			}
			f := cmd.Flags()
			switch {
			case opt.passwordStdin && f.Changed("password") && opt.password != "-":
				return usagef("conflicting options: cannot specify both --password and --password-stdin")
			case (opt.passwordStdin || opt.password == "-") && opt.user == "":
				return usagef("the --password-stdin option requires --username to be set")
			case f.Changed("username") && opt.user == "":
				return usagef("username is empty")
			case f.Changed("password") && opt.password == "":
				return usagef("password is empty")
			}
			return a.login(cmd.Context(), &opt)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&opt.user, "username", "u", "", "Username")
	f.StringVarP(&opt.password, "password", "p", "", `Password or Personal Access Token (PAT), or "-" to read from stdin`)
	f.BoolVar(&opt.passwordStdin, "password-stdin", false, "Take the Password or Personal Access Token (PAT) from stdin")
	return cmd
}

// login asks the registry, through the daemon, which knows how to speak with it, whether it takes the credentials, and
// stores them where docker does.
func (a *app) login(ctx context.Context, opt *loginOptions) error {
	file, err := loadDockerConfig()
	if err != nil {
		return err
	}
	key, host := serverNames(opt.server)
	auth := types.AuthConfig{Username: opt.user, ServerAddress: key}
	switch {
	case opt.passwordStdin || opt.password == "-":
		if auth.Password, err = readSecret(a.stdin); err != nil {
			return err
		}
	case opt.password != "":
		fmt.Fprintln(a.stderr, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
		auth.Password = opt.password
	}
	if opt.user == "" {
		// Credentials that work already need no new ones.
		stored, err := file.GetAuthConfig(key)
		if err == nil && (stored.Password != "" || stored.IdentityToken != "") {
			fmt.Fprintf(a.stderr, "Authenticating with existing credentials... [Username: %s]\n", stored.Username)
			if _, err := a.verify(ctx, host, stored); err == nil {
				fmt.Fprintln(a.stdout, "Login Succeeded")
				return nil
			}
			fmt.Fprintln(a.stderr, "Stored credentials invalid or expired")
		}
	}
	if err := a.prompt(&auth); err != nil {
		return err
	}
	token, err := a.verify(ctx, host, auth)
	if err != nil {
		return err
	}
	if token != "" {
		auth.Password, auth.IdentityToken = "", token
	}
	if err := file.GetCredentialsStore(key).Store(auth); err != nil {
		return fmt.Errorf("saving credentials: %w", err)
	}
	fmt.Fprintln(a.stdout, "Login Succeeded")
	return nil
}

// verify returns the identity token that the registry gave, if any.
func (a *app) verify(ctx context.Context, host string, auth types.AuthConfig) (string, error) {
	system, err := a.system(ctx)
	if err != nil {
		return "", err
	}
	resp, err := system.Login(ctx, &boxbuildv1.LoginRequest{Registry: host, Credentials: &boxbuildv1.Credentials{
		Username: auth.Username, Password: auth.Password, Auth: auth.Auth,
		IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
	}})
	return resp.GetIdentityToken(), err
}

// serverNames returns the name under which docker keeps a server's credentials, and its host.
func serverNames(server string) (key, host string) {
	host = credentials.ConvertToHostname(server)
	switch host {
	case "", "docker.io", "index.docker.io", "registry-1.docker.io":
		return hubKey, "docker.io"
	}
	return host, host
}

// readSecret reads a password from standard input. Only the end of the line does not belong to it.
func readSecret(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	s := string(b)
	for _, end := range []string{"\r\n", "\n", "\r"} {
		if cut, ok := strings.CutSuffix(s, end); ok {
			s = cut
			break
		}
	}
	if strings.TrimSpace(s) == "" {
		return "", errors.New("password is empty")
	}
	return s, nil
}

// prompt asks the user for what auth lacks.
func (a *app) prompt(auth *types.AuthConfig) error {
	if auth.Username != "" && auth.Password != "" {
		return nil
	}
	tty, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(tty.Fd())) {
		return errors.New("error: cannot perform an interactive login from a non-TTY device")
	}
	if auth.Username == "" {
		fmt.Fprint(a.stdout, "Username: ")
		line, err := bufio.NewReader(a.stdin).ReadString('\n')
		if err != nil {
			return fmt.Errorf("reading the username: %w", err)
		}
		if auth.Username = strings.TrimSpace(line); auth.Username == "" {
			return errors.New("username is empty")
		}
	}
	fmt.Fprint(a.stdout, "Password: ")
	secret, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(a.stdout)
	if err != nil {
		return fmt.Errorf("reading the password: %w", err)
	}
	if auth.Password = string(secret); auth.Password == "" {
		return errors.New("password is empty")
	}
	return nil
}
