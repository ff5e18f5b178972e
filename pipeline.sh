#!/usr/bin/env bash
# Steps 1 to 6, from nothing to a ranked selection.
#
#   bash pipeline.sh                                                  SmolLM2-135M on the sample text; needs only pip
#   bash pipeline.sh --model hfl/chinese-llama-2-1.3b --version 10B   a model and FineWeb from the hub
#
# Makes .venv on the first run. A step whose command and inputs have not changed is not run again; tokenizing and scoring
# go on where they were stopped. --overwrite starts both anew, when they belong to another model or other text.
set -euo pipefail
cd "$(dirname "$0")"

sample_model=data/SmolLM2-135M-Instruct
model=$sample_model
version=sample
overwrite=()
while [ $# -gt 0 ]; do
    case "$1" in
        --model) model=${2:?--model needs a name or folder}; shift 2 ;;
        --version) version=${2:?--version needs sample, 10B, 100B or 350B}; shift 2 ;;
        --overwrite) overwrite=(--overwrite); shift ;;
        -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "error: unknown flag $1 (--model, --version, --overwrite)" >&2; exit 2 ;;
    esac
done

. common/setup.sh
setup requirements.txt

# Run a script, and show the command.
run() {
    echo
    echo "\$ python $*"
    "$python" "$@"
}

# step OUTPUT SCRIPT FLAG…: run it, unless OUTPUT is there, made by the same command, and no step before was run.
stale=no
step() {
    local output=$1
    local stamp=data/.steps/${output//\//_}
    shift
    if [ $stale = no ] && [ -e "$output" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$*" ]; then
        echo "reusing $output"
        return
    fi
    stale=yes
    rm -f "$stamp"
    run "$@"
    mkdir -p data/.steps
    printf '%s' "$*" >"$stamp"
}

# Probes of 800 x 4,096 tokens are the published setting. On two CPU cores fewer and shorter ones find the same heads.
if [ "$version" = sample ]; then
    probes=(--num_probes 24 --max_tokens 768)
    check=(--max_probes 8)
    seq_len=1024
    shards=(--shard_size 30_000)
else
    probes=()
    check=()
    seq_len=4096
    shards=()
fi

if [ "$model" = "$sample_model" ]; then
    step "$sample_model" unpack_model.py --out "$sample_model"
fi
step data/probes.jsonl generate_retrieval_probes.py --tokenizer "$model" "${probes[@]}"
step data/retrieval_heads.txt compute_retrieval_heads.py --model "$model"
step reference-model make_reference_model.py --base_model "$model" --probes data/probes.jsonl "${check[@]}"
run fineweb.py --version "$version" --tokenizer "$model" "${shards[@]}" "${overwrite[@]}"
run attention_influence_scoring.py --base_model "$model" --data "data/fineweb$version/fineweb_train_*.bin" \
    --seq_len "$seq_len" "${overwrite[@]}"
run rank_scores.py
run validate_docs.py --base_model "$model" --seq_len "$seq_len" --scores data/ai_scores.tsv --top 1 --bottom 1
