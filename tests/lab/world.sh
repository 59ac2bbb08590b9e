#!/bin/sh
# The network world of a test host, made once when it starts: `world.sh WORKSPACE IMAGES`.
#
#   this namespace (where VMs run)        namespace "remote"
#   wan 10.99.0.254/24  ───── veth ─────  eth0 10.99.0.1/24, 10.99.0.2/24
#
# There is no default route. 10.99.0.1 serves DNS 53 (server.test and the zone below), HTTP 80 (/run/lab/www), echo 7 (TCP and
# UDP), 9000 (TCP: answers the SHA-256 of what it is sent) and iperf3 5201; every other port refuses. 10.99.0.66 swallows all it is
# sent, so a connection there times out; any other network is unreachable. /etc/resolv.conf names 10.99.0.1.
set -e
workspace=$1
images=$2

# Fresh /run and /tmp; the workspace stays where it is even if that is under one of them.
mkdir -p /mnt
mount --bind "$workspace" /mnt 2>/dev/null || true
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
case $workspace in
/tmp/* | /run/*) mkdir -p "$workspace"; mount --bind /mnt "$workspace" ;;
esac
umount /mnt 2>/dev/null || true
mkdir -p /run/lab/www /run/netns /run/user
chmod 1777 /run/lab

# What guests boot, within every user's reach: the workspace may lie in a directory that is closed to others, as /root is.
mkdir /run/lab/images
mount --bind "$images" /run/lab/images

# /dev/kvm for every user, as the kvm group would have it.
if [ -c /dev/kvm ] && [ "$(stat -c %a /dev/kvm)" != 666 ]; then
    if mknod -m 666 /run/lab/kvm c 10 232 2>/dev/null; then mount --bind /run/lab/kvm /dev/kvm; fi
fi

ip link set lo up
ip netns add remote
ip link add wan type veth peer name eth0 netns remote
ip addr add 10.99.0.254/24 dev wan
ip link set wan up
ip neigh replace 10.99.0.66 lladdr 02:00:00:00:00:66 dev wan nud permanent
remote() { ip netns exec remote "$@"; }
remote ip link set lo up
remote ip addr add 10.99.0.1/24 dev eth0
remote ip addr add 10.99.0.2/24 dev eth0
remote ip link set eth0 up

# Replaced by a file of our own, through a symbolic link if that is what it is; where /etc is the machine's, by a mount.
echo 'nameserver 10.99.0.1' >/run/lab/resolv.conf
resolv=$(readlink -m /etc/resolv.conf)
mkdir -p "${resolv%/*}"
[ -e "$resolv" ] || : >"$resolv"
mount --bind /run/lab/resolv.conf "$resolv"

# Anyone may ping from here: what the NAT needs to ping outward for its guest. (A user namespace knows only its own groups.)
(echo '0 2147483647' >/proc/sys/net/ipv4/ping_group_range) 2>/dev/null || echo '0 0' >/proc/sys/net/ipv4/ping_group_range

serve() { ip netns exec remote setsid "$@" </dev/null >/dev/null 2>&1 & }
serve dnsmasq --no-daemon --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces \
    --listen-address=10.99.0.1 --address=/server.test/10.99.0.1 --address=/other.test/10.99.0.2 --local=/test/ \
    --txt-record=txt.test,woven --cname=alias.test,server.test --host-record=server.test,10.99.0.1
serve busybox httpd -f -p 10.99.0.1:80 -h /run/lab/www
serve socat TCP-LISTEN:7,bind=10.99.0.1,fork,reuseaddr EXEC:cat
serve socat -T 10 UDP-LISTEN:7,bind=10.99.0.1,fork,reuseaddr EXEC:cat
serve socat TCP-LISTEN:9000,bind=10.99.0.1,fork,reuseaddr EXEC:sha256sum
serve iperf3 -s -B 10.99.0.1
ready() { remote ss -Hltn "sport = :$1" | grep -q .; }
for port in 53 80 7 9000 5201; do
    tries=0
    until ready $port; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { echo "world: nothing listens on port $port" >&2; exit 1; }
        sleep 0.05
    done
done
