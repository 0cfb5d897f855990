#!/usr/bin/env bash
# One seed of every method on official MRPC: `GLUE_DIR=... benchmarks/mrpc_every_method.sh scores` (an hour and a half on one
# core) or `seconds` (15 minutes; few epochs on an otherwise idle machine, for the time of an epoch). Run again, it skips what
# is finished. A second argument, `minilm` or `cnn`, runs only that half.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
common=(--task mrpc --method all --seeds 42 --bf16 True --use_cpu True)
minilm=(--model_name_or_path minilm --trainable_layers 1 --learning_rate 2e-4 --per_device_train_batch_size 32)
cnn=(--model_name_or_path cnn)
periods() { # mini-generation, cycle
  for method in lstsd lstsd_single lstsd_no_long lstsd_no_short; do echo "--$method.mini_generation_epochs" "$1"; done
  for method in snapshot_ensemble snapshot_distillation; do echo "--$method.cycle_epochs" "$2"; done
}
half=${2:-both}
case ${1:-} in
  scores)
    [ "$half" = cnn ] || python run_glue.py "${common[@]}" "${minilm[@]}" --num_train_epochs 6 $(periods 2 2)
    [ "$half" = minilm ] || python run_glue.py "${common[@]}" "${cnn[@]}" --num_train_epochs 20 $(periods 6 5)
    ;;
  seconds)
    quick=(--eval_strategy no --save_strategy no)
    [ "$half" = cnn ] || python run_glue.py "${common[@]}" "${minilm[@]}" --num_train_epochs 2 $(periods 1 1) "${quick[@]}"
    [ "$half" = minilm ] || python run_glue.py "${common[@]}" "${cnn[@]}" --num_train_epochs 4 $(periods 1 1) "${quick[@]}"
    ;;
  *) echo "usage: $0 scores|seconds [minilm|cnn]" >&2; exit 2 ;;
esac
