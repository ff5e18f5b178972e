#!/usr/bin/env bash
# Run steps 0 to 6, up to a ranked selection; with --all also 7 and 8, which train a model on it and evaluate it.
#
#   bash pipeline.sh                                                  SmolLM2-135M on the sample text, without a hub
#   bash pipeline.sh --model hfl/chinese-llama-2-1.3b --version 10B   a model and FineWeb from the hub
#
# Makes .venv on the first run. A step runs again only if its command or its input file has changed, or a step before it
# has run; tokenizing and scoring continue where they stopped. Other models and versions get their own folder in data/.
# --overwrite scores again if the scores belong to other heads or another text.
# --all trains a model of examples/config.json; on the sample, a very small model for a few steps.
set -euo pipefail
cd "$(dirname "$0")"

sample_model=data/SmolLM2-135M-Instruct
model=$sample_model
version=sample
overwrite=()
all=no
while [ $# -gt 0 ]; do
    case "$1" in
        --model) model=${2:?--model needs a name or folder}; shift 2 ;;
        --version) version=${2:?--version needs sample, 10B, 100B or 350B}; shift 2 ;;
        --overwrite) overwrite=(--overwrite); shift ;;
        --all) all=yes; shift ;;
        -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "error: unknown flag $1 (--model, --version, --overwrite, --all)" >&2; exit 2 ;;
    esac
done

. common/setup.sh
setup requirements.txt
if [ $all = yes ]; then
    setup requirements/eval.txt
fi

# Run a script, and show the command.
run() {
    echo
    echo "\$ python $*"
    "$python" "$@"
}

# step INPUT OUTPUT SCRIPT FLAG…: run the script, unless OUTPUT exists, is not older than INPUT and was made by the same
# command, and no earlier step has run.
stale=no
step() {
    local input=$1 output=$2
    local stamp=$data/.steps/${output//\//_}
    shift 2
    if [ $stale = no ] && [ -e "$output" ] && [ ! "$input" -nt "$output" ] &&
        [ "$(cat "$stamp" 2>/dev/null)" = "$*" ]; then
        echo "reusing $output"
        return
    fi
    stale=yes
    rm -f "$stamp"
    run "$@"
    touch "$output"
    mkdir -p "$data/.steps"
    printf '%s' "$*" >"$stamp"
}

# The paper's setting is 800 probes of 4,096 tokens. The sample run uses fewer and shorter probes and fewer draws, to save
# time; its verdict is the same for other seeds.
if [ "$version" = sample ]; then
    probes=(--num_probes 12 --max_tokens 512)
    check=(--max_probes 8 --draws 3)
    seq_len=1024
    config=examples/config-sample.json
    training=(--seq_len 256 --batch_size 16 --device_batch_size 4 --max_tokens 100_000 --learning_rate 2e-3)
    evaluation=(--tasks "probes,local_piqa,local_squad" --limit 8)
else
    probes=()
    check=()
    seq_len=4096
    config=examples/config.json
    training=()
    evaluation=()
fi

# The sample run uses the default paths of the scripts; any other run has a folder of its own.
data=data
reference="reference-model"
if [ "$model" != "$sample_model" ] || [ "$version" != sample ]; then
    data=data/${model//\//_}-$version
    reference=$data/reference-model
fi

if [ "$model" = "$sample_model" ]; then
    step requirements/sample.txt "$model" unpack_model.py --out "$model"
fi
step "$model" "$data/probes.jsonl" generate_retrieval_probes.py --tokenizer "$model" "${probes[@]}" \
    --out "$data/probes.jsonl"
step "$data/probes.jsonl" "$data/retrieval_heads.txt" compute_retrieval_heads.py --model "$model" \
    --probes "$data/probes.jsonl" --out "$data/retrieval_heads.txt"
step "$data/retrieval_heads.txt" "$reference" make_reference_model.py --base_model "$model" \
    --retrieval_heads "$data/retrieval_heads.txt" --probes "$data/probes.jsonl" "${check[@]}" --out "$reference"
step "$reference" "$data/fineweb$version/fineweb_summary.json" fineweb.py --version "$version" --tokenizer "$model" \
    --out_dir "$data/fineweb$version"
step "$data/fineweb$version/fineweb_summary.json" "$data/ai_scores.json" attention_influence_scoring.py \
    --base_model "$model" --reference_model "$reference" --data "$data/fineweb$version/fineweb_train_*.bin" \
    --seq_len "$seq_len" --out "$data/ai_scores.tsv" "${overwrite[@]}"
step "$data/ai_scores.json" "$data/top20.json" rank_scores.py --scores "$data/ai_scores.tsv" --out "$data/top20.tsv"
step "$data/top20.json" "$data/documents.html" validate_docs.py --scores "$data/ai_scores.tsv" --top 1 --bottom 1 \
    --html "$data/documents.html"
if [ $all = yes ]; then
    step "$data/top20.json" "$data/pretrained/model" pretrain.py --config "$config" --selected "$data/top20.parquet" \
        --data "$data/fineweb$version/fineweb_train_*.bin" "${training[@]}" --out_dir "$data/pretrained" "${overwrite[@]}"
    step "$data/pretrained/model" "$data/evaluation.json" evaluate.py --models "$data/pretrained/model" "$model" \
        "$reference" --probes "$data/probes.jsonl" "${evaluation[@]}" --out "$data/evaluation.tsv" "${overwrite[@]}"
fi
step "$data/top20.json" "$data/report.html" report.py --scores "$data/ai_scores.parquet" \
    --selection "$data/top20.parquet" --retrieval_heads "$data/retrieval_heads.tsv" --out "$data/report.html"
if [ $stale = yes ]; then
    run validate_docs.py --scores "$data/ai_scores.tsv" --top 1 --bottom 1
fi
echo
echo "see $data/report.html (the whole run) and $data/documents.html (tokens) in a browser"
echo "before you type a command of your own: . .venv/bin/activate"
