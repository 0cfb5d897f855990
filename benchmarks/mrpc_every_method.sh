#!/usr/bin/env bash
# One seed of every method on official MRPC, for its seconds per epoch: `GLUE_DIR=... benchmarks/mrpc_every_method.sh`.
# Takes about an hour on 2 cores; run again, it skips what is finished. Pass `minilm` or `cnn` to run only that half.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
common=(--task mrpc --method all --seeds 42 --bf16 True --use_cpu True)
periods() { # mini-generation, cycle
  for method in lstsd lstsd_single lstsd_no_long lstsd_no_short; do echo "--$method.mini_generation_epochs" "$1"; done
  for method in snapshot_ensemble snapshot_distillation; do echo "--$method.cycle_epochs" "$2"; done
}
half=${1:-both}
if [ "$half" != cnn ]; then
  python run_glue.py "${common[@]}" --model_name_or_path minilm --trainable_layers 1 --num_train_epochs 6 \
    --learning_rate 2e-4 --per_device_train_batch_size 32 --output_dir runs $(periods 2 2)
fi
if [ "$half" != minilm ]; then
  python run_glue.py "${common[@]}" --model_name_or_path cnn --num_train_epochs 20 --output_dir runs $(periods 6 5)
fi
