#!/bin/sh
# Lock the dependencies: check that uv.lock matches pyproject.toml, or create it if there is none.
set -eu
if [ -f uv.lock ]; then
    # First without this build's index, because a lock holds the addresses of the index that it was
    # created with.
    uv lock --check --offline || sh /docker/with_index.sh uv lock --check --offline
else
    echo "no uv.lock: using the newest versions; commit uv.lock for reproducible builds" >&2
    sh /docker/with_index.sh uv lock
fi
