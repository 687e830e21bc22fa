#!/bin/sh
# Resolve every pinned requirements file anew: lock.sh UV.
set -eu
uv=$1
compile() {
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-emit-index-url --no-emit-find-links "$@"
}
compile pyproject.toml requirements/dev.in -o requirements/dev.lock
compile examples/requirements.in -o examples/requirements.txt
compile --no-deps examples/photos.in -o examples/photos.lock
compile tests/web/requirements.in -o tests/web/requirements.txt
compile tests/conformance/packages.in -o tests/conformance/packages.txt
for name in function data servers; do
    compile tests/transparency/requirements/$name.in -o tests/transparency/requirements/$name.txt
done
