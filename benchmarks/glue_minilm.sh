#!/usr/bin/env bash
# The full fine-tuning with one seed in docs/results.md: GLUE's TSV files in $GLUE_DIR, the encoder that travels on PyPI.
# On 2 CPU cores about 20 minutes a run on RTE and MRPC, 13 on SST-2's first 5,000 rows and CoLA. Interrupted: run again.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${GLUE_DIR:?must name the folder with the TSV release of GLUE}"
export OMP_NUM_THREADS=1
for task in "sst2 --max_train_samples 5000" mrpc rte cola; do
  for method in "vanilla" "lstsd --mini_generation_epochs 2"; do
    folder="runs/glue_minilm/${task%% *}-${method%% *}"
    [ -e "$folder/results.json" ] && continue
    # shellcheck disable=SC2086 (task and method carry options)
    .venv/bin/python run_glue.py --task $task --method $method --model_name_or_path minilm --num_train_epochs 6 \
      --learning_rate 1e-4 --per_device_train_batch_size 16 --bf16 True --use_cpu True \
      --resume --output_dir "$folder"
  done
done
