#!/usr/bin/env bash
# Run steps 0 to 6, up to a ranked selection; with --all also 7 and 8, which train a model on it and evaluate it.
#
#   bash pipeline.sh                                                  SmolLM2-135M on the sample text, without a hub
#   bash pipeline.sh --input '/data/edu/**/*.parquet'                 SmolLM2-135M on your own files
#   bash pipeline.sh --input /data/edu --model Qwen/Qwen3-1.7B-Base --keep_columns all --where 'language_score > 0.8'
#   bash pipeline.sh --model hfl/chinese-llama-2-1.3b --version 10B   a model and FineWeb from the hub
#
#   --input PATTERN | --hub NAME | --version V   the corpus: files or a folder, a data set of the hub, or FineWeb
#   --name NAME           the folder in data/ where everything goes (default: from the names of model and corpus)
#   --text_column, --id_column, --domain_column, --keep_columns, --on_bad_row, --max_docs, --hub_config, --hub_split,
#   --shard_size          flags of fineweb.py
#   --where, --score, --within, --top_pct, --by, --max_repetition, --dedup       flags of rank_scores.py
#   --num_probes N        flag of generate_retrieval_probes.py
#   --heads_of DOMAIN     find heads of their own for the documents of this domain, by its text; may be given again
#   --overwrite           score again if the scores belong to other heads or another text; tokenize your own corpus again
#   --all                 train and evaluate, too: a model of examples/config.json; on the sample a very small one
#
# A run on your own corpus ends with the selected documents as text, all columns with them. Makes .venv on the first run.
# A step runs again only if its command or its input has changed, or a step before it has run; tokenizing and scoring
# continue where they stopped, and new files of a corpus are added.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")"

fail() {
    echo "error: $*" >&2
    exit 2
}

# A path or glob as it is seen from the folder of this script.
from_here() {
    case "$1" in
        /* | *://*) echo "$1" ;;
        *) [ "$here" = "$PWD" ] && echo "$1" || echo "$here/$1" ;;
    esac
}

sample_model=data/SmolLM2-135M-Instruct
model=$sample_model
version=sample
files=()
hub=
name=
tokenizing=()
ranking=()
top=20
num_probes=
heads_of=()
overwrite=()
all=no
while [ $# -gt 0 ]; do
    case "$1" in
        --overwrite) overwrite=(--overwrite); shift; continue ;;
        --all) all=yes; shift; continue ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    esac
    case "$1" in
        --model | --version | --input | --hub | --name | --text_column | --id_column | --domain_column | \
            --keep_columns | --on_bad_row | --max_docs | --hub_config | --hub_split | --shard_size | --where | --score | \
            --within | --top_pct | --by | --max_repetition | --dedup | --num_probes | --heads_of) ;;
        *) fail "unknown flag $1 (--help lists the flags)" ;;
    esac
    [ -n "${2:-}" ] || fail "$1 needs a value (--help lists the flags)"
    case "$1" in
        --model) model=$2 ;;
        --version) version=$2 ;;
        --input) files+=("$(from_here "$2")") ;;
        --hub) hub=$2 ;;
        --name) name=$2 ;;
        --where | --score | --within | --by | --max_repetition | --dedup) ranking+=("$1" "$2") ;;
        --top_pct) ranking+=("$1" "$2"); top=$2 ;;
        --num_probes) num_probes=$2 ;;
        --heads_of)
            case "$2" in default | *=*) fail "--heads_of $2: the name of one domain, not default and without =" ;; esac
            [[ " ${heads_of[*]@Q} " != *" ${2@Q} "* ]] || fail "--heads_of $2: given twice"
            heads_of+=("$2")
            ;;
        *) tokenizing+=("$1" "$2") ;;
    esac
    shift 2
done
own=no
sample=no
if [ ${#files[@]} -gt 0 ]; then
    own=yes
    corpus=(--input "${files[@]}")
    place=${files[0]%%[*?[]*}  # without the glob
    [ "$place" = "${files[0]}" ] || place=${place%/*}
    version=$(basename "$place")
elif [ -n "$hub" ]; then
    own=yes
    corpus=(--hub "$hub")
    version=${hub//\//_}
else
    corpus=(--version "$version")
    [ "$version" != sample ] || sample=yes
fi

. common/setup.sh
setup requirements.txt
if [ $all = yes ]; then
    setup requirements/eval.txt
fi

# Run a script, and show the command.
run() {
    echo
    echo "\$ python$(printf ' %q' "$@")"
    "$python" "$@"
}

# step INPUT OUTPUT SCRIPT FLAG…: run the script, unless OUTPUT exists, is not older than INPUT and was made by the same
# command, and no earlier step has run.
stale=no
step() {
    local input=$1 output=$2
    local stamp=$data/.steps/${output//\//_}
    shift 2
    local command="$*"
    command=${command// --overwrite/}
    if [ $stale = no ] && [ -e "$output" ] && [ ! "$input" -nt "$output" ] &&
        [ "$(cat "$stamp" 2>/dev/null)" = "$command" ]; then
        echo "reusing $output"
        return
    fi
    stale=yes
    rm -f "$stamp"
    run "$@"
    touch "$output"
    mkdir -p "$data/.steps"
    printf '%s' "$command" >"$stamp"
}

# The paper's setting is 800 probes of 4,096 tokens. With the small model there are fewer and shorter probes and fewer
# draws, to save time; the verdict is the same for other seeds.
probes=()
own_probes=()
check=()
if [ "$model" = "$sample_model" ]; then
    probes=(--num_probes 12 --max_tokens 512)
    check=(--max_probes 8 --draws 3)
    own_probes=(--num_probes 40)  # with 12, two sets of probes from one domain differ as much as two domains
fi
if [ -n "$num_probes" ]; then
    probes+=(--num_probes "$num_probes")
    own_probes=()
fi
if [ $sample = yes ]; then
    window=(--seq_len 1024)
    config=examples/config-sample.json
    training=(--seq_len 256 --batch_size 16 --device_batch_size 4 --max_tokens 50_000 --learning_rate 2e-3)
    evaluation=(--tasks "probes,local_piqa,local_squad" --limit 8)
else
    window=()
    config=examples/config.json
    training=()
    evaluation=()
fi

# The sample run uses the default paths of the scripts; any other run has a folder of its own.
data=data
reference="reference-model"
if [ "$model" != "$sample_model" ] || [ $sample = no ] || [ -n "$name" ]; then
    label=${model#data/}
    data=data/${name:-${label//\//_}-$version}
    reference=$data/reference-model
fi
shards=$data/fineweb$version
[ $own = no ] || shards=$data/shards
selection=$data/top$top

if [ "$model" = "$sample_model" ]; then
    step requirements/sample.txt "$model" unpack_model.py --out "$model"
fi
# make_reference INPUT FOLDER REFERENCE FLAG…: steps 1 to 3, by probes from the text that the flags name.
make_reference() {
    local input=$1 folder=$2 reference=$3
    shift 3
    step "$input" "$folder/probes.jsonl" generate_retrieval_probes.py --tokenizer "$model" "${probes[@]}" "$@" \
        --out "$folder/probes.jsonl"
    step "$folder/probes.jsonl" "$folder/retrieval_heads.txt" compute_retrieval_heads.py --model "$model" \
        --probes "$folder/probes.jsonl" --out "$folder/retrieval_heads.txt"
    step "$folder/retrieval_heads.txt" "$reference" make_reference_model.py --base_model "$model" \
        --retrieval_heads "$folder/retrieval_heads.txt" --probes "$folder/probes.jsonl" "${check[@]}" --out "$reference"
}

make_reference "$model" "$data" "$reference"
tokenize=(fineweb.py "${corpus[@]}" "${tokenizing[@]}" --tokenizer "$model" --out_dir "$shards")
if [ $own = yes ]; then
    run "${tokenize[@]}" "${overwrite[@]}"  # always: it sees by itself which files are new
else
    step "$reference" "$shards/fineweb_summary.json" "${tokenize[@]}"
fi
references=("$reference")
[ ${#heads_of[@]} = 0 ] || references=("default=$reference")
for domain in "${heads_of[@]}"; do
    folder=$data/heads_of_${domain//\//%2F}
    [ ${#overwrite[@]} = 0 ] || stale=yes  # the text may be another
    # not after the summary of the shards: files that are added to the corpus later change no heads
    make_reference "$reference" "$folder" "$folder/reference-model" --corpus "$shards/fineweb_train_*.bin" \
        --domain="$domain" "${own_probes[@]}"
    references+=("$domain=$folder/reference-model")
done
for each in "${references[@]}"; do  # made by a run that stopped before it scored
    [ ! "${each#*=}" -nt "$data/ai_scores.json" ] || stale=yes
done
step "$shards/fineweb_summary.json" "$data/ai_scores.json" attention_influence_scoring.py --base_model "$model" \
    --reference_model "${references[@]}" --data "$shards/fineweb_train_*.bin" "${window[@]}" --out "$data/ai_scores.tsv" \
    "${overwrite[@]}"
step "$data/ai_scores.json" "$selection.json" rank_scores.py --scores "$data/ai_scores.tsv" "${ranking[@]}" \
    --out "$selection.tsv"
step "$selection.json" "$data/documents.html" validate_docs.py --scores "$data/ai_scores.tsv" --top 1 --bottom 1 \
    --selection "$selection.parquet" --html "$data/documents.html"
if [ $all = yes ]; then
    step "$selection.json" "$data/pretrained/model" pretrain.py --config "$config" --selected "$selection.parquet" \
        --data "$shards/fineweb_train_*.bin" "${training[@]}" --out_dir "$data/pretrained" "${overwrite[@]}"
    if [ $sample = yes ]; then  # the same for a model with a vocabulary of its own
        other=$data/other
        step "$selection.json" "$other/selected" export_selection.py --selection "$selection.parquet" --format parquet \
            --from_tokens --out_dir "$other/selected" --overwrite
        step "$other/selected" "$other/tokenizer" examples/new_tokenizer.py --like "$model" --input "$other/selected" \
            --vocab_size 4096 --out "$other/tokenizer"
        step "$other/tokenizer" "$other/corpus/fineweb_summary.json" fineweb.py --version sample \
            --tokenizer "$other/tokenizer" --out_dir "$other/corpus" --overwrite
        step "$other/tokenizer" "$other/shards/fineweb_summary.json" fineweb.py --input "$other/selected" \
            --domain_column domain --tokenizer "$other/tokenizer" --out_dir "$other/shards" --overwrite
        step "$other/shards/fineweb_summary.json" "$other/pretrained/model" pretrain.py --config "$config" \
            --selected "$other/shards/fineweb_train_*.bin" --data "$other/corpus/fineweb_train_*.bin" "${training[@]}" \
            --out_dir "$other/pretrained" --overwrite
    fi
    step "$data/pretrained/model" "$data/evaluation.json" evaluate.py --models "$data/pretrained/model" "$model" \
        "$reference" --probes "$data/probes.jsonl" "${evaluation[@]}" --out "$data/evaluation.tsv" "${overwrite[@]}"
fi
step "$selection.json" "$data/report.html" report.py --scores "$data/ai_scores.parquet" \
    --selection "$selection.parquet" --retrieval_heads "$data/retrieval_heads.tsv" --out "$data/report.html"
if [ $own = yes ]; then
    how=()
    digest=$(sha256sum "$selection.parquet" 2>/dev/null || true)
    # an export of another selection is replaced; one of this goes on where it stopped
    grep -q "${digest%% *}" "$data/selected/.export.json" 2>/dev/null || how=(--overwrite)
    [ -z "$hub" ] || how+=(--from_tokens)
    step "$selection.json" "$data/selected" export_selection.py --selection "$selection.parquet" --format parquet \
        --out_dir "$data/selected" "${how[@]}"
fi
if [ $stale = yes ]; then
    run validate_docs.py --scores "$data/ai_scores.tsv" --selection "$selection.parquet" --top 1 --bottom 1
fi
echo
[ $own = no ] || echo "the selected documents as text: $data/selected"
echo "see $data/report.html (the whole run) and $data/documents.html (tokens) in a browser"
echo "before you type a command of your own: . .venv/bin/activate"
