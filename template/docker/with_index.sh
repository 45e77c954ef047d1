#!/bin/sh
# Run a command with the package index that the build was given: INDEX_URL, the wheels of
# --build-context wheels=DIR, or else the public one.
set -eu
if [ -n "${INDEX_URL:-}" ]; then
    export PIP_INDEX_URL="$INDEX_URL" UV_DEFAULT_INDEX="$INDEX_URL"
fi
if [ -n "$(ls -A /wheels)" ]; then
    export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels UV_OFFLINE=1 UV_FIND_LINKS=/wheels
fi
exec "$@"
