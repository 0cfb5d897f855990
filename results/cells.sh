#!/usr/bin/env bash
# Prints the command of each cell of PROTOCOL.md, in its order; finished runs are skipped, interrupted ones go on:
#   GLUE_DIR=... OMP_NUM_THREADS=1 results/cells.sh a1 | xargs -P 2 -d '\n' -n 1 sh -c
# on two cores. Arguments: the cells wanted, of a1 a3 figure2 a2 b1 b2. RUNS: folder of the runs (default runs).
set -euo pipefail
runs=${RUNS:-runs}
glue="python run_glue.py --output_dir $runs --cache_dir $runs/.cache --save_strategy no"
mlp="--model_name_or_path minilm --trainable_layers 0 --learning_rate 1e-3 --per_device_train_batch_size 32"
mlp+=" --num_train_epochs 30"
matched="--temporal_ensemble.consistency_weight 6.4"
ten="--seeds 1 2 3 4 5 6 7 8 9 10"
five="--seeds 1 2 3 4 5"

task() { [ "$1" = sst2 ] && echo "--task sst2 --max_train_samples 5000" || echo "--task $1"; }
noise() { [ "$1" = 0 ] || echo "--label_noise $1"; }

a1() {
  for rate in 0.2 0 0.4; do for name in sst2 mrpc cola; do
    common="$glue $mlp $(task $name) $(noise $rate) $ten"
    echo "$common --method vanilla lstsd label_smoothing temporal_ensemble $matched"
    echo "$common --method vanilla lstsd --sweep 16"
  done; done
}

a3() {
  cycles="--snapshot_ensemble.cycle_epochs 6 --snapshot_distillation.cycle_epochs 6"
  for rate in 0.2 0; do for name in sst2 mrpc cola; do
    echo "$glue $mlp $(task $name) $(noise $rate) $five --method lstsd_no_long lstsd_no_short lstsd_single" \
      "temporal_ensemble mean_teacher snapshot_ensemble snapshot_distillation dlb $cycles"
  done; done
}

figure2() {
  for name in sst2 mrpc cola; do for length in 1 2 3 4 5 8 10 12 15 20; do
    echo "$glue $mlp $(task $name) --label_noise 0.2 $five --method lstsd --mini_generation_epochs $length"
  done; done
}

for cell in "$@"; do
  case $cell in
    a1 | a3 | figure2) $cell ;;
    *) echo "results/cells.sh: unknown cell '$cell'" >&2; exit 2 ;;
  esac
done
