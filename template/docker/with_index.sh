#!/bin/sh
# Run a command with the package index of the build (INDEX_URL, the wheels of --build-context
# wheels=DIR, or else the public index) and with the certificate authority of the secret `ca`.
set -eu
if [ -n "${INDEX_URL:-}" ]; then
    export PIP_INDEX_URL="$INDEX_URL" UV_DEFAULT_INDEX="$INDEX_URL"
fi
if [ -n "$(ls -A /wheels)" ]; then
    export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels UV_OFFLINE=1 UV_FIND_LINKS=/wheels
fi
if [ -f /run/secrets/ca ]; then
    # In memory and for this command only: a separate build step would be cached, and would miss an
    # authority that is added or renewed later.
    cat /etc/ssl/certs/ca-certificates.crt /run/secrets/ca >/dev/shm/ca.pem
    export PIP_CERT=/dev/shm/ca.pem SSL_CERT_FILE=/dev/shm/ca.pem
fi
exec "$@"
