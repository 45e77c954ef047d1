#!/bin/sh
# Fill /app/.venv with the locked versions of a dependency group, and make it small.
# Arguments: those of requirements.py.
set -eu
python3 /docker/requirements.py "$@" >/tmp/requirements.txt
uv venv --quiet /app/.venv
uv pip sync --quiet --python /app/.venv --require-hashes /tmp/requirements.txt
rm -f /app/.venv/.lock
python3 /docker/slim.py /app/.venv
PYTHONPYCACHEPREFIX=/app/.pycache /app/.venv/bin/python /docker/rehearse.py
