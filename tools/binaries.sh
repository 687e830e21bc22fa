#!/bin/sh
# Build the release binaries, and the guest's extension module, into $CARGO_TARGET_DIR/release.
set -eu
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --quiet --release --locked -p nexusd -p nexus-store -p nexus-guest
sh "$(dirname "$0")/static.sh" build --quiet -p nexus-vmm
built="$CARGO_TARGET_DIR/$host/release/nexus-vmm"
place="$CARGO_TARGET_DIR/release/nexus-vmm"
# Replaced, not written into: a running one keeps its file.
cmp -s "$built" "$place" || { cp -p "$built" "$place.new" && mv -f "$place.new" "$place"; }
