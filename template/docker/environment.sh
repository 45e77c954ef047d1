#!/bin/sh
# Fill /app/.venv with what requirements.txt lists, and make it small.
set -eu
uv venv --quiet /app/.venv
uv pip sync --quiet --python /app/.venv --require-hashes requirements.txt
rm -f /app/.venv/.lock
python3 /docker/slim.py /app/.venv
PYTHONPYCACHEPREFIX=/app/.pycache /app/.venv/bin/python /docker/rehearse.py requirements.txt
