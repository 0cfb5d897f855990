"""The demo: wrong labels are planted, a plain run learns them, and the recorded training finds them again.

python -m lstsd_hf.glue.demo
"""

import argparse
import contextlib
import io
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import transformers

from ..dynamics import History, InSampleWarning, relabel, suspects
from ..dynamics.measures import suspicion_window
from ..dynamics.report import write_report
from ..runner.training import execute
from . import cli
from .preparation import TextOptions
from .run import GlueRun

RATE = 0.2
SHOWN, CHECKED = 5, 50
ARGUMENTS = (
    *("--task", "cola", "--method", "vanilla", "--demo"),
    *("--num_train_epochs", "16", "--record_dynamics", "True"),
    # README shows the figures of this order.
    *("--train_sampling_strategy", "random"),
)
SHOWN_EPOCHS = (1, 2, 3, 4, 8, 12, 16)


def main(arguments: Sequence[str]) -> None:
    """Runs the demo and prints what it finds."""
    parser = argparse.ArgumentParser(prog="python -m lstsd_hf.glue.demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=42, help="of the training and the planted labels")
    parser.add_argument("--output_dir", type=Path, default=Path("runs", "demo"), help="for models and the page")
    parser.add_argument("--cache_dir", type=Path, default=Path("runs", ".cache"), help="for tokens")
    options = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    run = _noisy_run(options.seed)
    train = run.splits["train"]
    print(f"GENERATED DATA, not GLUE: {len(train)} sentences, is each of them good English?")
    print(
        f"Wrong labels are planted in {RATE:.0%} of them. Plain fine-tuning, with every epoch recorded:\n", flush=True
    )
    folder = options.output_dir / "before"
    before = _quietly(run, folder, options.cache_dir)
    history = History.read(folder / "dynamics")
    true = np.array(train["label"])
    wrong = set(np.flatnonzero(history.given != true).tolist())
    _show_epochs(history, before, sorted(wrong))

    ranked = suspects(history, CHECKED)
    names = run.task.label_names
    first, last = suspicion_window(history)
    print(f"\nThe labels that epochs {first} to {last} believed least, {SHOWN} of {CHECKED}:\n")
    for _, row in ranked.head(SHOWN).iterrows():
        is_wrong = "planted" if row["index"] in wrong else "correct"
        print(f"  {row['suspicion']:.2f}  given {names[row['given']]:14} ({is_wrong})  {row['text'][:70]}")
    found = sum(index in wrong for index in ranked["index"])
    print(
        f"\nOf the {CHECKED} labels believed least, {found} are planted ({found / CHECKED:.0%}; by chance {RATE:.0%})."
    )

    noisy = train.remove_columns("label").add_column("label", history.given.tolist())
    with warnings.catch_warnings():
        # The table below says how many were right.
        warnings.simplefilter("ignore", InSampleWarning)
        cleaned, changed = relabel(noisy, history)
    left = int((np.array(cleaned["label"]) != true).sum())
    print(f"Relabelled {len(changed)} suspects as the model believes, and trained again:\n", flush=True)
    fixed = replace(
        run, splits=datasets.DatasetDict({**run.splits, "train": cleaned}), options=TextOptions(), record_dynamics=False
    )
    after = _quietly(fixed, options.output_dir / "after", options.cache_dir)
    print("| training labels     | wrong labels | Matthews corr. | NLL   |")
    print("| ------------------- | ------------ | -------------- | ----- |")
    for name, count, result in (("as given", len(wrong), before), ("suspects relabelled", left, after)):
        score, nll = (result["last_epoch"][f"eval_{key}"] for key in ("matthews_correlation", "nll"))
        print(f"| {name:19} | {count:<12} | {100 * score:<14.2f} | {nll:.3f} |")
    print(f"\nLook at it in a browser: {write_report(folder / 'dynamics').resolve()}")


def _noisy_run(seed: int) -> GlueRun:
    options = ("--label_noise", str(RATE), "--label_noise_seed", str(seed), "--seed", str(seed))
    (planned,) = cli.plan(cli.parse([*ARGUMENTS, *options]))
    return planned.run


def _quietly(run: GlueRun, folder: Path, cache: Path) -> dict[str, Any]:
    """A run whose log is not printed line by line."""
    with contextlib.redirect_stdout(io.StringIO()):
        return execute(run, folder, resume=False, overwrite=True, cache=cache)


def _show_epochs(history: History, result: dict[str, Any], wrong: list[int]) -> None:
    print("| epoch | Matthews corr., clean data | planted labels that the model believes |")
    print("| ----- | -------------------------- | -------------------------------------- |")
    for epoch, scores in enumerate(result["epochs"]):
        if epoch + 1 not in SHOWN_EPOCHS:
            continue
        believed = history.log_probs[epoch, wrong].argmax(-1) == history.given[wrong]
        share = f"{np.mean(believed):.0%}"
        print(f"| {epoch + 1:<5} | {100 * scores['eval_matthews_correlation']:<26.2f} | {share:<38} |")


if __name__ == "__main__":
    main(sys.argv[1:])
