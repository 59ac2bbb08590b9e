#!/bin/sh
# Installs from Debian what a make target needs: tests/install.sh [demo|test|lint|bench|man|fuzz]..., all of them
# without an argument.
# Works as root, or through sudo; asks nothing; quick when everything is there. rustup's cargo is expected already.
set -eu

build="gcc libc6-dev"
# A machine for guests (QEMU emulates one with SVM where the processor has none), and the servers its guests speak to.
lab="$build qemu-system-x86 busybox-static xz-utils iproute2 procps util-linux dnsmasq-base socat iperf3"
demo="$lab tshark"
# Readers of the man pages and completions that are written.
readers="groff-base zsh fish"
# Clients of the NAT's DHCP and TFTP, what is behind smb=, and who looks around behind it.
boot="isc-dhcp-client dhcpcd-base tftp-hpa atftp curl ipxe samba smbclient ndisc6 traceroute mtr-tiny dnsperf iputils-ping"
test="$lab tshark ethtool nftables openssh-server vde2 vde-switch vdeplug user-mode-linux ipxe-qemu $readers $boot"
lint="$build"
bench="$lab openssh-server vde2 vde-switch vdeplug iputils-ping linux-perf slirp4netns passt"
man="$build"
# libFuzzer is built from its source.
fuzz="$build g++"

[ $# -gt 0 ] || set -- demo test lint bench man fuzz
wanted=
for target in "$@"; do
    case $target in
    demo) wanted="$wanted $demo" ;;
    test) wanted="$wanted $test" ;;
    lint) wanted="$wanted $lint" ;;
    bench) wanted="$wanted $bench" ;;
    man) wanted="$wanted $man" ;;
    fuzz) wanted="$wanted $fuzz" ;;
    *) echo "install.sh: $target: demo, test, lint, bench, man or fuzz" >&2; exit 2 ;;
    esac
done

missing=
for package in $(printf '%s\n' $wanted | sort -u); do
    case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
    installed) ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

command -v apt-get >/dev/null || { echo "install.sh: no apt-get here; needed are:$missing" >&2; exit 1; }
root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "install.sh: run as root, or have root run: apt-get install$missing" >&2; exit 1; }
    root=sudo
fi
echo "installing from Debian:$missing"
export DEBIAN_FRONTEND=noninteractive
apt() { $root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@"; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ apt update && apt install -y --no-install-recommends $missing; } </dev/null >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
