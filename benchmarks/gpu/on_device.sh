#!/usr/bin/env bash
# On a machine with a GPU and no network, in the repository with the folders of pack.py:
#   benchmarks/gpu/on_device.sh FOLDER SECONDS [--workers N] -- CELL...
# runs cells of studies/cells.py and leaves their results in FOLDER, and what earlier calls found in /tmp/found.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$1 seconds=$2
shift 2
options=()
while [ "$1" != -- ]; do options+=("$1"); shift; done
shift
if [ ! -d /tmp/site ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/site .gpu/wheels/*.whl
fi
export PYTHONPATH=/tmp/site GLUE_DIR=.gpu/glue HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p /tmp/found
for found in /tmp/found/*.jsonl; do
    [ -e "$found" ] && python3 -m lstsd_hf.experiments collect "$found" "studies/records/$(basename "$found")"
done
nvidia-smi -L
python -m studies.cells "$@" |
    python3 benchmarks/gpu/fill.py --seconds "$seconds" --folder "$folder" --records studies/records/gpu*.jsonl "${options[@]}"
cp "$folder"/*.jsonl /tmp/found/
