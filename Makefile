# boxbuild. `make demo` and `make test` need nothing but a Debian or Ubuntu machine, Go, and root.

SHELL      := /bin/bash
BIN        := bin
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT     ?= $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS    := -s -w -X main.version=$(VERSION)
BASES      ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/boxbuild/bases
CLIENTS    ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/boxbuild/clients
SUDO       := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PACKAGES   := gcc libc6-dev pkg-config libseccomp-dev debootstrap busybox-static nftables iproute2 xz-utils zstd bzip2 git
TESTPKGS   := docker-registry skopeo umoci attr jq procps openssh-client dropbear-bin
# (Dropbear's programs come without a service, which a test must not leave on anybody's machine.)
SHIMFLAGS  := -tags 'seccomp netgo osusergo' -trimpath
GOTOOL     := go run
GOFUMPT    := mvdan.cc/gofumpt@v0.12.0
GOLANGCI   := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.12.2
AGAIN      := ./cmd/internal/bases/again.sh

# The linter remembers findings by the content of a package and with the paths of the checkout that it saw first: shared
# between checkouts, it reports files that are gone and cannot read their nolint comments. So each checkout has its own.
LINTCACHE  := $(CURDIR)/$(BIN)/lint-cache

export BOXBUILD_BASES := $(BASES)
export BOXBUILD_CLIENTS := $(CLIENTS)

.PHONY: all setup setup-test modules tools bases clients build demo test check bench proto fmt clean

all: build

# setup installs the system packages that are missing; it asks the package manager for nothing when all are there.
setup:
	@./cmd/internal/bases/packages.sh $(PACKAGES)

setup-test: setup
	@./cmd/internal/bases/packages.sh $(TESTPKGS)

# bases makes the root file systems that the demo and the tests build on; they are kept outside the tree.
bases: setup
	@./cmd/internal/bases/bases.sh $(BASES)

# clients builds buildctl and buildx, which take a minute or two the first time; they are kept outside the tree, too.
clients: setup modules
	@./cmd/internal/bases/clients.sh $(CLIENTS)

# modules downloads the modules that packages or their tests import, and nothing when all are there.
modules:
	@$(AGAIN) go list -deps -test ./... >/dev/null

# tools does the same for the tools of check.
tools:
	@$(AGAIN) $(GOTOOL) $(GOFUMPT) -version >/dev/null
	@$(AGAIN) $(GOTOOL) $(GOLANGCI) version >/dev/null

build: setup modules
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS) -X main.revision=$(COMMIT)' -o $(BIN)/ ./cmd/boxbuild ./cmd/boxbuildd
	CGO_ENABLED=1 go build $(SHIMFLAGS) -ldflags '-s -w -linkmode external -extldflags "-static"' -o $(BIN)/ ./cmd/boxshim

demo: build bases
	@./cmd/internal/bases/demo.sh $(BIN) $(BASES)

# test runs everything; the suites that need root run as root and skip themselves otherwise.
test: setup-test build bases clients
	go vet ./...
	$(SUDO) env PATH="$$PATH" HOME="$$HOME" BOXBUILD_BASES=$(BASES) BOXBUILD_CLIENTS=$(CLIENTS) \
		BOXBUILD_BIN=$(CURDIR)/$(BIN) go test -p 2 ./...

# check is what a change must pass before anything else; no root needed.
check: setup modules tools
	@out=$$($(GOTOOL) $(GOFUMPT) -l cmd solver frontend snapshot exporter executor proto worker) || exit 1; \
		if [ -n "$$out" ]; then echo "not formatted with gofumpt:"; echo "$$out"; exit 1; fi
	go vet ./...
	GOLANGCI_LINT_CACHE=$(LINTCACHE) $(GOTOOL) $(GOLANGCI) run --allow-parallel-runners ./...
	go test ./cmd/internal/lint
	go test -race -tags invariants $$(go list ./solver/... ./frontend/... ./proto/... ./exporter/... | grep -v /run)

bench: build bases
	go build -o $(BIN)/ ./cmd/boxbench
	$(SUDO) env PATH="$(CURDIR)/$(BIN):$$PATH" BOXBUILD_BASES=$(BASES) $(BIN)/boxbench

# proto generates the Go code of our own service.
proto:
	./cmd/internal/bases/packages.sh protobuf-compiler
	protoc -I proto --go_out=proto --go_opt=paths=source_relative --go-grpc_out=proto --go-grpc_opt=paths=source_relative \
		proto/boxbuild/v1/*.proto

fmt:
	$(GOTOOL) $(GOFUMPT) -w cmd solver frontend snapshot exporter executor proto worker

clean:
	rm -rf $(BIN)
