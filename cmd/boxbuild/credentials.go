package main

import (
	"fmt"
	"io"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"

	"github.com/boxbuild/boxbuild/proto/boxbuild/v1"
)

// hubKey is the name under which docker keeps the credentials of Docker Hub.
const hubKey = "https://index.docker.io/v1/"

// loadDockerConfig reads the user's docker configuration.
func loadDockerConfig() (*configfile.ConfigFile, error) {
	file, err := config.Load(config.Dir())
	if err != nil {
		return nil, fmt.Errorf("reading the docker configuration: %w", err)
	}
	if !file.ContainsAuth() {
		file.CredentialsStore = config.LoadDefaultConfigFile(io.Discard).CredentialsStore
	}
	return file, nil
}

// credentialsKey is the name under which docker keeps the credentials of a registry.
func credentialsKey(registry string) string {
	switch registry {
	case "docker.io", "index.docker.io", "registry-1.docker.io", "":
		return hubKey
	}
	return registry
}

// credentialsFor returns what the user has for that registry, and nothing else. A credential helper that fails is an
// error: the credentials of another registry would be the worst of all answers.
func credentialsFor(registry string) (*boxbuildv1.Credentials, error) {
	file, err := loadDockerConfig()
	if err != nil {
		return nil, err
	}
	auth, err := file.GetAuthConfig(credentialsKey(registry))
	if err != nil {
		return nil, fmt.Errorf("getting credentials for %s: %w", registry, err)
	}
	return &boxbuildv1.Credentials{
		Username: auth.Username, Password: auth.Password, Auth: auth.Auth,
		IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
	}, nil
}
