#!/bin/sh
# Install requirements.txt into /app/.venv, and make the environment smaller.
set -eu
uv venv --quiet /app/.venv
uv pip sync --quiet --python /app/.venv --require-hashes requirements.txt
rm -f /app/.venv/.lock
python3 /docker/slim.py /app/.venv
PYTHONPYCACHEPREFIX=/app/.pycache /app/.venv/bin/python /docker/rehearse.py requirements.txt
