# shellcheck shell=bash
# Sourced by pipeline.sh and run_tests.sh: make .venv once, and again when a requirements file has changed.
# Called with the requirements files that the caller needs. Some packages are installed without their dependencies: the
# sample always, the benchmarks with requirements/eval.txt, the readers of trainers with requirements/dev.txt.

python=.venv/bin/python
export PYTHONUNBUFFERED=1

setup() {
    local wanted carried=(requirements/sample.txt)
    [[ " $* " != *" requirements/eval.txt "* ]] || carried+=(requirements/tasks.txt)
    [[ " $* " != *" requirements/dev.txt "* ]] || carried+=(requirements/trainers.txt)
    wanted=$(cat "$@" "${carried[@]}")
    if [ "$(cat .venv/installed-"${1//\//-}" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    echo "installing into .venv …"
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: ${PYTHON:-python3} is older than Python 3.11; name a newer one: PYTHON=python3.12 bash …" >&2
        exit 2
    }
    [ -x "$python" ] || "${PYTHON:-python3}" -m venv .venv
    local file flags=()
    for file in "$@"; do flags+=(-r "$file"); done
    "$python" -m pip install --quiet --disable-pip-version-check "${flags[@]}"
    for file in "${carried[@]}"; do
        "$python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$file"
    done
    printf '%s' "$wanted" >.venv/installed-"${1//\//-}"
}
