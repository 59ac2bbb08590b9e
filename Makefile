# make demo   boot a Debian guest, get it a lease, move real data through the NAT
# make test   every test; make lint: formatting and clippy; make bench: figures beside the peers
# make man    man pages in target/man, completions for bash, zsh and fish in target/completions
# make fuzz   fuzz targets of switch, cables and NAT, SECONDS=600 each; TARGET=bpdu for one of them (tests/README.md)
#
# Each target first installs what it needs from Debian's packages, as root or with sudo.

.POSIX:
.PHONY: all demo test lint bench man fuzz clean

CARGO = cargo
TARGET =
SECONDS = 600

all:
	$(CARGO) build --release --locked

demo:
	sh tests/install.sh demo
	$(CARGO) build --release --locked --bins
	target/release/demo

test:
	sh tests/install.sh test
	$(CARGO) test --workspace --locked

lint:
	sh tests/install.sh lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

bench:
	sh tests/install.sh bench
	$(CARGO) build --release --locked --bins
	target/release/bench

man:
	sh tests/install.sh man
	$(CARGO) run --release --locked --quiet --bin manuals -- target

fuzz:
	sh tests/install.sh fuzz
	sh tests/fuzz/run.sh $(SECONDS) $(TARGET)

clean:
	$(CARGO) clean
