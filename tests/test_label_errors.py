"""Label noise, and finding it again."""

import dataclasses
import json

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from sklearn.metrics import roc_auc_score
from transformers import pipeline

from lstsd_hf import LSTSDConfig, LSTSDTrainer, TemporalEnsembleConfig
from lstsd_hf.errors import InputError
from lstsd_hf.glue import cli
from lstsd_hf.label_errors import LabelErrorCandidate, example_texts, rank_label_errors
from lstsd_hf.runner.noise import replace_labels
from tests.helpers import make_examples, make_model


@pytest.mark.parametrize(("num_labels", "rate", "count"), [(2, 0.2, 20), (5, 0.4, 40), (3, 0.0, 0)])
def test_the_given_share_of_labels_is_replaced_by_others(num_labels, rate, count):
    labels = [index % num_labels for index in range(100)]
    noisy, rows = replace_labels(labels, num_labels, rate, seed=3)
    assert rows == [index for index in range(100) if noisy[index] != labels[index]]
    assert len(rows) == count
    assert set(noisy) <= set(range(num_labels))
    assert replace_labels(labels, num_labels, rate, seed=3) == (noisy, rows)
    if rate:
        assert replace_labels(labels, num_labels, rate, seed=4)[1] != rows


def test_every_other_label_is_as_likely():
    noisy, rows = replace_labels([1] * 9000, 4, 0.9999, seed=0)
    counts = torch.bincount(torch.tensor([noisy[row] for row in rows]), minlength=4)
    assert counts[1] == 0
    assert all(abs(int(count) - 3000) < 150 for count in counts[[0, 2, 3]])


def test_ranking_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    written = torch.tensor([True, True, True, False])
    data = Dataset.from_dict({"text": list("abcd"), "pair": list("wxyz"), "label": [1, 1, 0, 0]})
    ranking = rank_label_errors(probabilities, written, data)
    assert [item.index for item in ranking] == [0, 2, 1]
    assert ranking[0] == LabelErrorCandidate(0, 1, 0, pytest.approx(0.1), "a | w")
    assert ranking[2].given_probability == pytest.approx(0.8)


@pytest.mark.parametrize("config", [LSTSDConfig(mini_generation_epochs=2), TemporalEnsembleConfig()])
def test_the_memory_finds_labels_that_contradict_the_rest(make_args, config):
    rows = make_examples(120)
    wrong = {5, 40, 77, 101}
    for index in wrong:
        rows[index] = {**rows[index], "labels": 1 - rows[index]["labels"]}
    trainer = LSTSDTrainer(
        model=make_model(),
        args=make_args(num_train_epochs=8, learning_rate=5e-3),
        train_dataset=rows,
        teacher=config,
    )
    with pytest.raises(InputError, match=r"must have predictions for the training examples, but has none\. Train"):
        trainer.teacher.rank_label_errors()
    trainer.train()
    ranking = trainer.teacher.rank_label_errors()
    assert len(ranking) == 120
    assert roc_auc_score([item.index in wrong for item in ranking], range(120, 0, -1)) > 0.8
    assert [item.given_probability for item in ranking] == sorted(item.given_probability for item in ranking)
    assert all((item.believed_label != item.given_label) == (item.given_probability < 0.5) for item in ranking)


def test_a_noisy_run_records_its_rows_and_how_well_they_are_found(workplace, options):
    cli.main(
        [
            *("--method", "lstsd", *options, "--mini_generation_epochs", "1", "--label_noise", "0.25"),
            *("--label_noise_seed", "2", "--output_dir", "noisy"),
        ]
    )
    results = json.loads((workplace / "noisy" / "results.json").read_text())
    record = json.loads((workplace / "noisy" / "label_noise.json").read_text())
    assert (record["rate"], record["seed"], len(record["rows"])) == (0.25, 2, 12)
    lines = [json.loads(line) for line in (workplace / "noisy" / "label_errors.jsonl").read_text().splitlines()]
    assert sorted(line["index"] for line in lines) == list(range(48))
    replaced = {line["index"] for line in lines if line["given_label"] != line["true_label"]}
    assert sorted(replaced) == record["rows"]
    assert " | " in lines[0]["text"]
    errors = results["label_errors"]["memory"]
    # By hand: the share of pairs (noisy, clean) in the right order.
    position = {line["index"]: rank for rank, line in enumerate(lines)}
    pairs = [(position[a], position[b]) for a in replaced for b in range(48) if b not in replaced]
    assert errors["roc_auc"] == pytest.approx(sum(a < b for a, b in pairs) / len(pairs))
    assert results["label_errors"]["count"] == 12
    assert errors["precision_at_count"] == pytest.approx(sum(line["index"] in replaced for line in lines[:12]) / 12)
    assert results["config"]["label_noise"] == 0.25


def test_stored_predictions_of_a_snapshot_rank_too(workplace, options):
    cli.main(
        [
            *("--method", "snapshot_distillation", *options, "--cycle_epochs", "1", "--store_predictions"),
            *("--label_noise", "0.25", "--output_dir", "noisy"),
        ]
    )
    errors = json.loads((workplace / "noisy" / "results.json").read_text())["label_errors"]
    assert 0 <= errors["memory"]["roc_auc"] <= 1


def test_methods_without_memory_are_ranked_by_the_trained_model(workplace, options):
    cli.main(["--method", "vanilla", *options, "--label_noise", "0.25", "--output_dir", "noisy"])
    errors = json.loads((workplace / "noisy" / "results.json").read_text())["label_errors"]
    lines = [json.loads(line) for line in (workplace / "noisy" / "label_errors.jsonl").read_text().splitlines()]
    # What the saved model says of the training rows, in evaluation mode.
    classify = pipeline("text-classification", model=str(workplace / "noisy"), top_k=None)
    for line in lines[:3] + lines[-3:]:
        first, second = line["text"].split(" | ")
        scores = {item["label"]: item["score"] for item in classify({"text": first, "text_pair": second})}
        assert line["given_probability"] == pytest.approx(scores[line["given_label"]], abs=1e-5)
    replaced = [line["given_label"] != line["true_label"] for line in lines]
    assert errors == {
        "count": 12,
        "memory": None,
        "model": {
            "roc_auc": pytest.approx(roc_auc_score(replaced, range(48, 0, -1))),
            "precision_at_count": pytest.approx(sum(replaced[:12]) / 12),
        },
    }


def test_noise_that_replaces_nothing_is_refused(workplace, options):
    with pytest.raises(InputError) as error:
        cli.main(["--method", "vanilla", *options, "--label_noise", "0.005"])
    assert str(error.value) == (
        "`label_noise` must replace at least one label, got 0.005 of 48 rows. Use more noise or more rows."
    )


def test_pictures_are_not_decoded_for_their_labels():
    broken = {"bytes": b"no picture", "path": None}
    rows = [{"image": broken, "label": label, "text": f"text {label}"} for label in (1, 0, 1)]
    features = Features({"image": Image(), "label": Value("int64"), "text": Value("string")})
    data = Dataset.from_list(rows, features=features)
    probabilities, written = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), torch.ones(3, dtype=torch.bool)
    ranking = rank_label_errors(probabilities, written, data)
    assert [(item.index, item.text) for item in ranking] == [(0, "text 1"), (1, "text 0"), (2, "text 1")]
    assert example_texts(data.select_columns(["image"])) == [None] * 3
    assert example_texts(data.cast_column("text", Value("large_string"))) == ["text 1", "text 0", "text 1"]
    # A transform makes other columns, so it is called.
    upper = data.with_transform(
        lambda batch: {"labels": batch["label"], "text": [text.upper() for text in batch["text"]]}
    )
    assert example_texts(upper.select_columns(["label", "text"])) == ["TEXT 1", "TEXT 0", "TEXT 1"]


def test_examples_that_have_no_class_are_not_ranked():
    @dataclasses.dataclass
    class Example:
        target: int

    probabilities, written = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), torch.ones(3, dtype=torch.bool)
    data = [Example(1), Example(-100), Example(0)]
    ranking = rank_label_errors(probabilities, written, data, label_names=["target"])
    assert [(item.index, item.given_label) for item in ranking] == [(0, 1), (2, 0)]
    with pytest.raises(InputError, match=r"must have a class as one of label, labels, label_ids, got None among"):
        rank_label_errors(probabilities, written, data)
    with pytest.raises(InputError, match=r"must have a class as one of .*, got \[0.5, 0.5\] among"):
        rank_label_errors(probabilities, written, [{"label": [0.5, 0.5]}] * 3)
