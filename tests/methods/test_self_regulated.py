"""Self-regulated learning: what is left out costs nothing, what took part is counted, and two stages by one command."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lstsd_hf import Observer, RegulatedLSTSDConfig, SelfRegulatedConfig
from lstsd_hf.errors import InputError
from lstsd_hf.glue import cli
from tests.helpers import (
    DividesByItems,
    SavesAt,
    assert_same_weights,
    error_of,
    make_examples,
    make_model,
    make_trainer,
    teacher_folder,
    weights,
)


class SeesRows(nn.Module):
    """Notes the size of each forward with and without graph."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config, self.sizes = model, model.config, {True: [], False: []}

    def forward(self, input_ids, labels=None):
        if self.training:
            self.sizes[torch.is_grad_enabled()].append(len(input_ids))
        return self.inner(input_ids=input_ids, labels=labels)


def rows_of(trainer):
    return {graph: sum(sizes) for graph, sizes in trainer.model.sizes.items()}


def trained(make_args, config, **options):
    trainer = make_trainer(make_args, config, **({"model": SeesRows(make_model(dropout=0.0))} | options))
    trainer.train()
    return trainer


class MasksItsLoss(nn.Module):
    """A loss of one's own, whose gradient is NaN where no example has a label."""

    def __init__(self):
        super().__init__()
        self.inner = make_model(dropout=0.0)
        self.config = self.inner.config

    def forward(self, input_ids, labels=None):
        logits = self.inner(input_ids=input_ids).logits
        if labels is None:
            return {"logits": logits}
        has_label = (labels >= 0).float()
        losses = nn.functional.cross_entropy(logits, labels.clamp(min=0), reduction="none")
        return {"loss": (losses * has_label).sum() / has_label.sum(), "logits": logits}


@pytest.mark.parametrize("config_class", [SelfRegulatedConfig, RegulatedLSTSDConfig])
def test_who_stands_in_for_nobody_has_a_label(make_args, config_class):
    """A step all the same, of an example whose loss is a number."""
    # In each batch of 4 there is a label.
    rows = [{**row, "labels": -100 if index < 3 else row["labels"]} for index, row in enumerate(make_examples(14))]
    options = {"num_train_epochs": 12, "dataloader_drop_last": True, "logging_nan_inf_filter": False}
    config = config_class(confidence_threshold=0.5)
    trainer = make_trainer(make_args, config, model=MasksItsLoss(), train_dataset=rows, **options)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert any(entry["loss"] == 0 for entry in log)
    # What takes no part is not in the base loss either.
    assert all(entry["loss_base"] == 0 for entry in log if entry["loss"] == 0)


def test_what_is_known_costs_no_training_pass(make_args):
    trainer = trained(make_args, SelfRegulatedConfig(confidence_threshold=0.6))
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    used, seen = log[-1]["samples_used"], log[-1]["samples_seen"]
    assert seen == 6 * 14
    assert 14 < used < seen  # the first epoch is whole
    assert trainer.teacher.participations.sum() == used
    # A batch in which nobody takes part has a step of loss 0 on one row.
    empty = sum(entry["loss"] == 0 for entry in log)
    assert rows_of(trainer) == {True: used + empty, False: 5 * 14}
    counts = load_file(Path(trainer.args.output_dir) / "participations.safetensors")["participations"]
    assert torch.equal(counts, trainer.teacher.participations)


def test_with_the_memory_not_even_a_pass_without_graph(make_args):
    config = RegulatedLSTSDConfig(mini_generation_epochs=3, confidence_threshold=0.6)
    trainer = trained(make_args, config)
    rows = rows_of(trainer)
    assert rows[False] == 0
    assert rows[True] < 6 * 14
    # Epochs 1, 3 and 6 are whole, so that the long-term teachers are of one epoch.
    used = {}
    for entry in trainer.state.log_history:
        if "samples_used" in entry:
            used[int(entry["epoch"] - 1e-6)] = entry["samples_used"]
    shares = [now - before for before, now in zip([0, *used.values()], used.values(), strict=False)]
    assert shares[0] == shares[2] == shares[5] == 14
    assert min(shares) < 14


def test_a_step_in_which_nobody_takes_part_moves_nothing(make_args):
    model = make_model(dropout=0.0)
    config = SelfRegulatedConfig(confidence_threshold=1e-6, ungated_epochs=0)
    rows = make_examples(8)
    with torch.no_grad():
        answers = model.eval()(torch.tensor([row["input_ids"] for row in rows])).logits.argmax(-1)
    rows = [{**row, "labels": int(answer)} for row, answer in zip(rows, answers, strict=True)]
    before = weights(model)
    trainer = trained(make_args, config, model=model, train_dataset=rows, weight_decay=0.0)
    assert_same_weights(before, trainer.model)
    assert trainer.state.log_history[0]["samples_used"] == 0


def test_a_loss_divided_by_all_items_keeps_that_divisor(make_args):
    """Two micro-batches of one step: what is left out counts in the divisor, where the loss has one."""
    model = DividesByItems(make_model(dropout=0.0))
    config = SelfRegulatedConfig(confidence_threshold=0.6, ungated_epochs=0)
    options = {"num_train_epochs": 1, "gradient_accumulation_steps": 2, "train_dataset": make_examples(8)}
    trainer = make_trainer(make_args, config, model=model, learning_rate=0.0, **options)
    trainer.train()
    with torch.no_grad():
        rows = make_examples(8)
        logits = model.inner.eval()(torch.tensor([row["input_ids"] for row in rows])).logits
    labels = torch.tensor([row["labels"] for row in rows])
    given = logits.softmax(-1).gather(1, labels[:, None]).squeeze(1)
    takes_part = (logits.argmax(-1) != labels) | (given < 0.6)
    assert 0 < takes_part.sum() < 8
    expected = -(given.log() * takes_part).sum() / 8
    assert trainer.state.log_history[0]["loss"] == pytest.approx(float(expected), rel=1e-4)


def student(folder, mode, **options):
    return SelfRegulatedConfig(distillation=mode, teacher_model_name_or_path=str(folder), **options)


@pytest.mark.parametrize("mode", ["significance", "hybrid"])
def test_a_student_needs_the_counts(make_args, tmp_path, mode):
    with pytest.raises(InputError, match=r"needs the participations in the teacher's training, and .* cannot be read"):
        trained(make_args, student(teacher_folder(), mode))
    make_model(seed=7).save_pretrained(tmp_path / "teacher")
    save_file({"participations": torch.ones(9)}, tmp_path / "teacher" / "participations.safetensors")
    with pytest.raises(InputError, match="must have a number for each of 14 training examples, got 9"):
        trained(make_args, student(tmp_path / "teacher", mode))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distillation": "all"}, "`distillation` of SelfRegulatedConfig must be one of"),
        ({"confidence_threshold": 1.5}, "`confidence_threshold` must be from 0 to 1"),
        ({"ungated_epochs": -1}, "`ungated_epochs` must be at least 0"),
        ({"max_significance": 0.5}, "`max_significance` bounds a factor relative to the mean and must be at least 1"),
        ({"teacher_model_name_or_path": "x"}, '`distillation` must be "significance", "regulated" or "hybrid" with a'),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SelfRegulatedConfig(**options)


def test_both_stages_by_one_command(workplace, options, capsys):
    """The teacher is trained once for all of its students."""
    command = [*options, "--method", "self_regulated", "--output_dir", "runs", "--seeds", "1", "2"]
    command += ["--confidence_threshold", "0.5"]
    for mode in ("hybrid", "significance", "regulated"):
        cli.main([*command, "--distillation", mode])
    paths = [*Path("runs").rglob("results.json")]
    results = [json.loads(path.read_text()) for path in paths]
    modes = [result["config"]["method"]["distillation"] for result in results]
    assert sorted(modes) == sorted(["none", "hybrid", "significance", "regulated"] * 2)
    # The seeds of a mode are one setting, though each has a teacher of its own.
    assert len({result["config_hash"] for result in results}) == 4
    for path, result in zip(paths, results, strict=True):
        method = result["config"]["method"]
        gates = method["distillation"] != "significance"
        last = result["last_epoch"]
        assert (last["samples_used"] < last["samples_seen"]) == gates
        if method["distillation"] != "none":
            assert method["teacher_model_name_or_path"] is None
            assert "teacher_digest" in json.loads((path.parent / "run.json").read_text())
    capsys.readouterr()
    cli.main([*command, "--distillation", "hybrid"])
    assert capsys.readouterr().out.count("Finished before") == 2


def test_both_stages_in_a_folder_of_ones_own(workplace, options):
    (workplace / "taken").mkdir()
    (workplace / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="`output_dir` must be new, empty or of an earlier run, got taken"):
        cli.main([*options, "--method", "self_regulated", "--output_dir", "taken"])
    # Before the first stage.
    assert not (workplace / "taken-teacher").exists()
    cli.main([*options, "--method", "self_regulated", "--output_dir", "own"])
    assert json.loads(Path("own/results.json").read_text())["config"]["method"]["distillation"] == "hybrid"
    assert json.loads(Path("own-teacher/results.json").read_text())["config"]["method"]["distillation"] == "none"
    assert Path("own-teacher/participations.safetensors").is_file()
    assert "`sweep` cannot search the options of self_regulated" in error_of(
        [*options, "--method", "self_regulated", "--sweep", "2"]
    )


@pytest.mark.parametrize("regulation", ["significance", "hybrid"])
def test_a_resumed_run_has_the_significance_of_the_epochs_before(make_args, regulation):
    config = RegulatedLSTSDConfig(regulation=regulation, mini_generation_epochs=2, confidence_threshold=0.5)
    steps = (13, 14, 18)
    options = {"save_strategy": "steps", "save_steps": 1000, "learning_rate": 3e-2}
    whole = make_trainer(make_args, config, callbacks=[SavesAt(steps)], **options)
    whole.train()
    assert whole.teacher._weights.std() > 0
    for step in steps:
        resumed = make_trainer(make_args, config, **options)
        resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{step}")
        assert_same_weights(whole.model, resumed.model)


def test_other_observers_do_not_see_an_example_that_takes_no_part(make_args):
    class Sees(Observer):
        name, is_stateful = "sees", False

        def reset(self):
            self.rows = 0

        def observe(self, batch):
            self.rows += len(batch.indices)

    sees = Sees()
    trainer = trained(make_args, SelfRegulatedConfig(confidence_threshold=0.5), observers=[sees], learning_rate=3e-2)
    assert any(entry.get("loss") == 0 for entry in trainer.state.log_history)
    assert sees.rows == trainer.teacher.participation.used


def test_a_teacher_that_gates_nothing_counts_all_the_same(make_args, workplace):
    trainer = trained(make_args, SelfRegulatedConfig(confidence_threshold=0.0))
    counts = load_file(Path(trainer.args.output_dir) / "participations.safetensors")["participations"]
    assert counts.tolist() == [6.0] * 14
    message = '`distillation` must be "regulated" with `teacher_outputs`, got "hybrid"'
    with pytest.raises(InputError, match=message):
        SelfRegulatedConfig(distillation="hybrid", teacher_outputs="x.parquet")
