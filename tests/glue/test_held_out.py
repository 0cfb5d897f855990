"""Early stopping by training rows that are kept out, with their labels as they are."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lstsd_hf.glue import cli
from lstsd_hf.runner import held_out
from lstsd_hf.runner.held_out import held_out_rows
from lstsd_hf.runner.noise import replace_labels
from tests.helpers import error_of


@pytest.fixture
def command(options):
    own = ["--method", "vanilla", "--held_out_share", "0.25", "--label_noise", "0.25", "--learning_rate", "3e-2"]
    return [*options, *own, "--num_train_epochs", "6"]


def results(folder):
    return json.loads(Path(folder, "results.json").read_text())


def test_rows_are_divided_once_and_for_all():
    kept, out = held_out_rows(20, 0.15)
    assert len(out) == 3
    assert sorted([*kept, *out]) == list(range(20))
    assert (kept, out) == held_out_rows(20, 0.15)


def test_the_model_is_that_of_the_epoch_with_the_smallest_loss_on_them(workplace, command, monkeypatch):
    losses = []
    on_epoch_end = held_out.KeepsBest.on_epoch_end

    def spy(self, args, state, control, **kwargs):
        on_epoch_end(self, args, state, control, **kwargs)
        rows, trainer = self._held_out, self.trainer
        columns = ("input_ids", "attention_mask", "token_type_ids", "label")
        loader = torch.utils.data.DataLoader(
            rows.select_columns([name for name in columns if name in rows.column_names]),
            batch_size=len(rows),
            collate_fn=trainer.data_collator,
        )
        with torch.no_grad():
            losses.append((float(trainer.model.eval()(**next(iter(loader))).loss), state.global_step))

    monkeypatch.setattr(held_out.KeepsBest, "on_epoch_end", spy)
    cli.main([*command, "--output_dir", "run"])
    found = results("run")
    best = found["best_model"]
    assert len(losses) == 6
    loss, step = min(losses)
    assert best["step"] == step < losses[-1][1]  # not the last epoch
    assert best["held_out_loss"] == pytest.approx(loss, rel=1e-4)
    assert found["data"]["train_examples"] == 36
    # A quarter of 48 labels is wrong; those among the rows kept out are not counted.
    rows = json.loads(Path("run/label_noise.json").read_text())["rows"]
    assert found["label_errors"]["count"] == len(rows) < 12
    trained = json.loads(Path("run/training_rows.json").read_text())
    assert trained == held_out_rows(48, 0.25)[0]
    # Rows of the split as it is in the file.
    labels = cli.plan(cli.parse([*command, "--output_dir", "other"]))[0].run.splits["train"]["label"][:48]
    assert [*rows] == [row for row in trained if row in replace_labels(labels, 2, 0.25, 0)[1]]
    true = [json.loads(line) for line in Path("run/label_errors.jsonl").read_text().splitlines()]
    assert {line["index"] for line in true if line["given_label"] != line["true_label"]} == {*rows}
    # What is saved is that model: its predictions are the ones kept, and its scores the ones named.
    model, tokenizer = (kind.from_pretrained("run") for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    assert model.num_labels == 2
    assert tokenizer.pad_token is not None
    with np.load("run/predictions.npz") as arrays:
        accuracy = float((arrays["logits"].argmax(-1) == arrays["labels"]).mean())
    assert best["eval_accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("method", ["snapshot_ensemble", "mean_teacher"])
def test_copies_are_those_of_the_best_epoch_too(workplace, command, method):
    early = {
        "snapshot_ensemble": ["--cycle_epochs", "1"],
        "mean_teacher": ["--ema_decay", "0.5", "--rampup_epochs", "0"],
    }
    command = [*command, "--method", method, *early[method], "--num_train_epochs", "8", "--output_dir", "run"]
    cli.main(command)
    found = results("run")
    best = found["best_model"]
    epoch = best["step"] // 3  # 36 rows in batches of 16
    assert epoch < 8
    logged = found["epochs"][epoch - 1]
    assert logged["epoch"] == epoch
    names = [name for name in logged if name.endswith(("loss", "nll", "accuracy")) and name in best]
    assert len(names) >= 3
    assert {name: best[name] for name in names} == {name: pytest.approx(logged[name]) for name in names}
    # What a resumed run would read.
    keeps = held_out.KeepsBest(Path("run"), None)
    keeps.on_train_begin(SimpleNamespace(device="cpu"), SimpleNamespace(global_step=1), None)
    assert keeps.step == best["step"]
    assert keeps._teacher


def test_interrupted_equals_uninterrupted(workplace, command, monkeypatch):
    cli.main([*command, "--output_dir", "whole"])

    class InterruptedRunError(Exception):
        pass

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == 13:  # within an epoch, after the best one
            raise InterruptedRunError

    with monkeypatch.context() as patch:
        patch.setattr("lstsd_hf.runner.trainer.DurationEstimate.on_step_end", interrupt)
        with pytest.raises(InterruptedRunError):
            cli.main([*command, "--output_dir", "part"])
    assert Path("part/held_out_best.safetensors").is_file()
    cli.main([*command, "--output_dir", "part", "--resume"])
    for name in ("last_epoch", "best_model"):
        whole, part = ({k: v for k, v in results(run)[name].items() if "second" not in k} for run in ("whole", "part"))
        whole.pop("eval_runtime", None), part.pop("eval_runtime", None)
        assert whole == part
    with np.load("whole/predictions.npz") as first, np.load("part/predictions.npz") as second:
        assert np.array_equal(first["logits"], second["logits"])


def test_what_is_refused(command):
    assert "`held_out_share` must be from 0 to below 1, got 1.0" in error_of([*command, "--held_out_share", "1"])
    tiny = [*command, "--label_noise", "0", "--max_train_samples", "2", "--held_out_share", "0.1"]
    assert "`held_out_share` must leave rows on both sides, got 0.1 of 2 rows" in error_of(tiny)
    both = [*command, "--load_best_model_at_end", "True"]
    assert "`load_best_model_at_end` must be False with `held_out_share`" in error_of(both)
