#!/bin/sh
# Choose versions: those of uv.lock where there is one that suits pyproject.toml, else new ones.
set -eu
if [ -f uv.lock ]; then
    # Without the index of this build first: a lock holds the addresses of the one that it was
    # made with.
    uv lock --check --offline || sh /docker/with_index.sh uv lock --check --offline
else
    echo "no uv.lock: versions are chosen now; commit one for builds that repeat" >&2
    sh /docker/with_index.sh uv lock
fi
