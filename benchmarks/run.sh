#!/usr/bin/env bash
# Run benchmarks in an environment of their own, .venv-benchmarks:   bash benchmarks/run.sh [NAME [FLAG ...]]
# Without a name: every row that this machine can measure, then the tables in the pages.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=.venv-benchmarks
wanted=$(cat requirements.txt benchmarks/requirements.txt)
if [ "$(cat $environment/installed 2>/dev/null)" != "$wanted" ]; then
    [ -x $environment/bin/python ] || "${PYTHON:-python3}" -m venv $environment
    $environment/bin/python -m pip install --quiet --disable-pip-version-check \
        -r requirements.txt -r benchmarks/requirements.txt
    printf '%s' "$wanted" >$environment/installed
fi
python=$environment/bin/python
if [ $# -gt 0 ]; then
    exec "$python" "benchmarks/$1.py" "${@:2}"
fi
for name in scoring_cpu heads guards tokenizing prefilter mixture ranking export workers precision growth where_time_goes; do "$python" "benchmarks/$name.py"; done
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    "$python" benchmarks/scoring_gpu.py
    "$python" benchmarks/roofline.py
    "$python" benchmarks/heads.py --shape 1.3B --probes 800 --compared 100 --tokens 4096 --device cuda --rounds 1
fi
"$python" docs/fill_tables.py
