"""What leaving rows out saves in the backward pass: `python -m benchmarks.backward_share`. Ten minutes; prints JSON.

MiniLM with 3 layers is fine-tuned on 1,000 rows of GLUE's MRPC (`GLUE_DIR`) for 6 epochs, by each method in turns. The
seconds within `Accelerator.backward`, and those of whole epochs, stand over plain fine-tuning's of the same turn.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import transformers
from accelerate import Accelerator

from lstsd_hf.runner.trainer import EpochTimer

from .end_to_end import as_run_glue
from .measuring import hardware, ratio_of

METHODS = {
    "vanilla": [],
    "self_regulated": ["--distillation", "none"],
    "regulated_lstsd": ["--mini_generation_epochs", "3"],
}


def run(method: str, options: list[str], seed: int) -> dict[str, float]:
    """Seconds of backward passes and of epochs, and the share of rows trained on, of one training."""
    backward, seconds = Accelerator.backward, []

    def timed(accelerator, *args, **kwargs):
        started = time.perf_counter()
        backward(accelerator, *args, **kwargs)
        seconds.append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory() as folder:
        command = [
            *("--task", "mrpc", "--method", method, "--model_name_or_path", "minilm-l3", "--max_train_samples", "1000"),
            *("--num_train_epochs", "6", "--per_device_train_batch_size", "16", "--learning_rate", "1e-4"),
            *("--bf16", "True", "--use_cpu", "True", "--train_sampling_strategy", "group_by_length"),
            *("--save_strategy", "no", "--eval_strategy", "no", "--seed", str(seed), "--output_dir", folder, *options),
        ]
        timer = EpochTimer()
        trainer = as_run_glue(command, Path(folder), timer)
        with patch.object(Accelerator, "backward", timed):
            trainer.train()
    last = next(entry for entry in reversed(trainer.state.log_history) if "loss" in entry)
    share = last["samples_used"] / last["samples_seen"] if "samples_seen" in last else 1.0
    return {"backward": sum(seconds), "epochs": sum(timer.seconds), "share_of_rows": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    turns = [
        {method: run(method, own, seed) for method, own in METHODS.items()} for seed in range(1, options.rounds + 1)
    ]
    figures = {
        method: {
            "share_of_rows": sum(turn[method]["share_of_rows"] for turn in turns) / len(turns),
            **{
                name: ratio_of([(turn[method][name], turn["vanilla"][name]) for turn in turns])._asdict()
                for name in ("backward", "epochs")
            },
        }
        for method in METHODS
    }
    print("\n" + json.dumps({"figures": figures, "rounds": options.rounds, "hardware": hardware()}, indent=2))


if __name__ == "__main__":
    main()
