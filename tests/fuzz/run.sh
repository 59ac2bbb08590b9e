#!/bin/sh
# Fuzzes: tests/fuzz/run.sh SECONDS [TARGET...], all targets in turn without a name. Ends at the first finding.
# Keeps what was reached: tests/fuzz/run.sh keep [TARGET...] puts the fewest inputs that reach everything reached so far
# into corpus/, in place of those named by their hash.
#
# Between the two, inputs are in target/corpus. A stable toolchain is enough: it brings the sanitizer, and
# RUSTC_BOOTSTRAP lets it be asked for.
set -eu

cd "$(dirname "$0")/../.."
mode=${1:?SECONDS or keep}
shift
[ $# -gt 0 ] || set -- request console bpdu vlan igmp stream vxlan l2tpv3 cable nat

export RUSTC_BOOTSTRAP=1
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --version 0.13.2 --locked
in_fuzz="--fuzz-dir tests/fuzz --target-dir target/fuzz"
limits="-timeout=5 -rss_limit_mb=1024 -max_len=2048"

for target in "$@"; do
    found=target/corpus/$target kept=tests/fuzz/corpus/$target
    mkdir -p "$found"
    case $mode in
    keep)
        rm -rf "$found.kept"
        mkdir "$found.kept"
        # Which edges are reached counts, and not how often.
        cargo fuzz run $in_fuzz "$target" "$found.kept" "$found" "$kept" -- -set_cover_merge=1 -use_counters=0 $limits
        for file in "$kept"/*; do
            case ${file##*/} in
            *[!0-9a-f]*) ;;
            *) rm "$file" ;;
            esac
        done
        mv "$found.kept"/* "$kept"
        rmdir "$found.kept"
        ;;
    *)
        cargo fuzz run $in_fuzz "$target" "$found" "$kept" -- -max_total_time="$mode" -len_control=20 \
            -print_final_stats=1 $limits
        ;;
    esac
done
