#!/bin/sh
# cargo for the hypervisor: linked without shared libraries, as one is started per instance, and the dynamic loader takes 0.5 ms
# of each start. (--target keeps the flag away from build scripts and macros, which cannot be static.)
#
# Usage: tools/static.sh build|test [arguments of cargo]
set -eu
action=$1
shift
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="${RUSTFLAGS:-} -Ctarget-feature=+crt-static" exec cargo "$action" --release --locked --target "$host" "$@"
