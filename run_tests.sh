#!/usr/bin/env bash
# Lint, the contract of imports, and tests. Makes .venv if it is missing. Arguments go to pytest:  bash run_tests.sh -k shards
# Two processes of one thread each take a third less time than one of two threads: most of the models are tiny.
set -euo pipefail
cd "$(dirname "$0")"
. common/setup.sh
setup requirements/dev.txt requirements.txt requirements/ray.txt requirements/eval.txt
# The pages are tested in a browser: the system's Chromium or Chrome, or one that Playwright fetches.
command -v chromium google-chrome >/dev/null || "$python" -m playwright install chromium
"$python" -m ruff check .
"$python" -m ruff format --check .
.venv/bin/lint-imports --no-cache --no-logo
export OMP_NUM_THREADS=1
exec "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
