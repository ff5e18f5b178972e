#!/usr/bin/env bash
# Lint and tests. Makes .venv if it is missing. Arguments go to pytest:  bash run_tests.sh -k shards
set -euo pipefail
cd "$(dirname "$0")"
. common/setup.sh
setup requirements-dev.txt requirements.txt requirements-ray.txt
"$python" -m ruff check .
"$python" -m ruff format --check .
exec "$python" -m pytest "$@"
