"""A command line that cannot work is refused in one line, before anything is loaded."""

import subprocess
import sys

import pytest

from lstsd_hf.errors import InputError
from lstsd_hf.glue import cli
from tests.helpers import ROOT

RUN_GLUE = ROOT / "run_glue.py"
# A model that does not exist: whoever loads it fails with another error.
COMMAND = ["--task", "rte", "--data", "synthetic", "--method", "lstsd", "--model_name_or_path", "/no/such/model"]

REFUSED = [
    (["--report_to", "nonsense"], "`report_to` must be none, all, or of "),
    (["--report_to", "wandb"], "`report_to` must name an installed tracker, got 'wandb'."),
    (["--seed", str(2**32)], "`seed` must be from 0 to 4294967295, got 4294967296."),
    (["--seed", "-1"], "`seed` must be from 0 to 4294967295, got -1."),
    (["--seeds", "1", str(2**40)], "`seed` must be from 0 to 4294967295, got 1099511627776."),
    (["--data_seed", "-5"], "`data_seed` must be from 0 to 4294967295, got -5."),
    (["--learning_rate", "-1"], "`learning_rate`, `weight_decay`, `adam_…` and `optim_args` must be what"),
    (["--learning_rate", "nan"], "`learning_rate`"),
    (["--weight_decay", "-0.1"], "`weight_decay`"),
    (["--adam_beta1", "1.5"], "`adam_…`"),
    (["--adam_epsilon", "-1"], "`adam_…`"),
    (["--optim", "adamw_bnb_8bit"], "`optim` must name an installed optimizer, got 'adamw_bnb_8bit'"),
    (
        ["--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", '{"no_such": 1}'],
        "`lr_scheduler_kwargs` must be what",
    ),
    (
        ["--metric_for_best_model", "nonsense"],
        "`metric_for_best_model` must be one of loss, accuracy, nll, ece for rte",
    ),
    (["--metric_for_best_model", "eval_f1"], "`metric_for_best_model` must be one of"),
    (["--num_train_epochs", "0"], "`num_train_epochs` must be above 0 where `max_steps` is not given, got 0."),
    (["--max_steps", "0"], "`max_steps` must be at least 1, or -1 for what `num_train_epochs` says, got 0."),
    (["--per_device_eval_batch_size", "0"], "`per_device_eval_batch_size` must be at least 1, got 0."),
    (["--eval_accumulation_steps", "0"], "`eval_accumulation_steps` must be at least 1, got 0."),
    (["--dataloader_num_workers", "-1"], "`dataloader_num_workers` must be at least 0, got -1."),
    (["--label_smoothing_factor", "2"], "`label_smoothing_factor` must be from 0 to 1, got 2.0."),
    (
        ["--dataloader_drop_last", "True", "--per_device_train_batch_size", "512"],
        "`dataloader_drop_last` must leave a batch, got 400 training examples and batches of 512.",
    ),
    (["--accelerator_config", "no.json"], "No such file or directory: 'no.json'"),
    (["--use_liger_kernel", "True"], "`use_liger_kernel` needs the package liger-kernel, found none"),
    (["--fsdp", "full_shard"], "`fsdp` needs several processes, got 1"),
    (["--trainable_layers", "0", "--neftune_noise_alpha", "5"], "`neftune_noise_alpha` must be left out here, got 5"),
    (["--model_name_or_path", "cnn", "--neftune_noise_alpha", "5"], "`neftune_noise_alpha` must be left out here"),
    (["--sweep", "1", "--sweep_storage", "nonsense"], "`sweep_storage` must be a database that optuna can open"),
    (["--output_dir", "file/below"], "A folder for runs must be writable, got file/below: "),
    (["--output_dir", "/proc/1/runs"], "A folder for runs must be writable, got /proc/1/runs: "),
    (["--cache_dir", "file/cache"], "A folder for runs must be writable, got file/cache: "),
    (["--text_columns", "a"], "`text_columns` goes with `train_file`"),
]


@pytest.mark.parametrize(("options", "expected"), REFUSED, ids=lambda value: " ".join(value)[:40])
def test_refused_before_anything_is_loaded(tmp_path, monkeypatch, options, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as error:
        cli.main([*COMMAND, *options])
    assert expected in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "options",
    [
        ["--metric_for_best_model", "accuracy"],
        ["--metric_for_best_model", "eval_nll"],
        ["--seed", str(2**32 - 1)],
        ["--report_to", "none"],
        ["--optim", "sgd"],
        ["--lr_scheduler_type", "cosine_with_restarts", "--lr_scheduler_kwargs", '{"num_cycles": 2}'],
        ["--method", "mean_teacher", "--metric_for_best_model", "averaged_accuracy"],
    ],
    ids=lambda options: " ".join(options)[:40],
)
def test_what_can_work_goes_on_to_the_model(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="The model '/no/such/model' could not be loaded"):
        cli.main([*COMMAND, *options])


def test_one_line_at_the_command_line(tmp_path):
    """No traceback."""
    run = subprocess.run(
        [sys.executable, RUN_GLUE, *COMMAND, "--report_to", "nonsense"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "Traceback" not in run.stderr
    assert run.stderr.strip().splitlines()[-1].startswith("run_glue.py: error: `report_to` must be")
