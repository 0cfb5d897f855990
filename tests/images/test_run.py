"""The command for pictures from end to end, with a tiny network in a folder."""

import json
import re
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from lstsd_hf import METHODS
from lstsd_hf.errors import InputError
from lstsd_hf.experiments.__main__ import main as experiments
from lstsd_hf.images import cli
from lstsd_hf.images.run import pixel_statistics
from lstsd_hf.runner.cli import describe
from lstsd_hf.runner.results import results_schema
from lstsd_hf.runner.trainer import RunTrainer
from tests.helpers import assert_same_weights, interrupted_after
from tests.images.helpers import make_network, make_pixels
from tests.images.test_data import write_cifar_python, write_folders


@pytest.fixture
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    make_network(num_labels=10, num_channels=1).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def options(network):
    return (
        *("--task", "digits", "--model_name_or_path", network, "--use_cpu", "true", "--max_train_samples", "48"),
        *("--num_train_epochs", "4", "--per_device_train_batch_size", "16", "--learning_rate", "0.01"),
    )


def results_in(folder):
    results = json.loads((Path(folder) / "results.json").read_text())
    jsonschema.validate(results, results_schema())
    return results


def test_all_methods_side_by_side(workplace, options, capsys):
    quick = [
        word
        for name in ("lstsd", "lstsd_no_long", "lstsd_no_short", "lstsd_single", "regulated_lstsd")
        for word in (f"--{name}.mini_generation_epochs", "2")
    ]
    quick += ["--snapshot_ensemble.cycle_epochs", "2", "--snapshot_distillation.cycle_epochs", "2"]
    cli.main(["--method", "all", *options, *quick, "--save_strategy", "no"])
    table = capsys.readouterr().out.split("digits, scores of the last epoch")[1]
    found = {path.parts[3]: results_in(path.parent) for path in Path("runs").glob("digits/*/*/*/results.json")}
    assert found.keys() >= {name for name in METHODS if METHODS[name].paper().is_self_taught}
    assert all(f"| {name} " in table for name in found)
    assert found["lstsd"]["distilled_steps"] == 6
    assert found["lstsd"]["config"]["method"]["temperature"] == 2.0
    assert found["lstsd"]["metrics"] == ["accuracy"]


def test_the_papers_settings(workplace, capsys):
    parsed = cli.parse(["--method", "lstsd", "snapshot_distillation", "--task", "digits"])
    first = cli.plan(parsed)[0]
    args = first.run.args
    assert (args.learning_rate, args.weight_decay, args.num_train_epochs) == (0.1, 1e-4, 164)
    assert (args.per_device_train_batch_size, args.optim_args) == (128, "momentum=0.9,nesterov=True")
    config = parsed.teachers[0]
    assert (config.lambda_short, config.lambda_long, config.mini_generation_epochs) == (4.0, 2.4, 6)
    assert (config.temperature, config.teacher_floor) == (2.0, 0.0)
    assert (parsed.teachers[1].cycle_epochs, parsed.teachers[1].temperature) == (40, 2.0)
    assert "the paper's settings" in describe(first.run)
    parsed = cli.parse(["--method", "lstsd", "--model_name_or_path", "densenet100"])
    assert (parsed.args.num_train_epochs, parsed.args.per_device_train_batch_size) == (300, 64)


def test_the_learning_rate_falls_at_its_milestones(workplace, options):
    cli.main(["--method", "vanilla", *options, "--num_train_epochs", "8", "--output_dir", "mine"])
    state = json.loads(max(Path("mine").glob("checkpoint-*/trainer_state.json")).read_text())
    rates = [entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
    cli.main(["--method", "vanilla", *options, "--lr_scheduler_type", "linear", "--output_dir", "linear"])
    state = json.loads(max(Path("linear").glob("checkpoint-*/trainer_state.json")).read_text())
    rates = [entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry]
    assert rates == sorted(rates, reverse=True)
    assert len({*rates}) == 4


def test_resume_equals_uninterrupted(workplace, options, monkeypatch):
    command = ["--method", "lstsd", *options, "--mini_generation_epochs", "1", "--save_strategy", "steps"]
    command += ["--save_steps", "2"]
    cli.main([*command, "--output_dir", "whole"])

    with interrupted_after(monkeypatch, step=5):
        cli.main([*command, "--output_dir", "cut"])
    cli.main([*command, "--output_dir", "cut", "--resume"])
    whole, cut = (AutoModelForImageClassification.from_pretrained(name) for name in ("whole", "cut"))
    assert_same_weights(whole, cut)
    assert results_in("whole")["epochs"][-1]["eval_nll"] == results_in("cut")["epochs"][-1]["eval_nll"]


def test_wrong_labels_are_planted_and_ranked(workplace, options):
    cli.main(["--method", "lstsd", *options, "--mini_generation_epochs", "2", "--label_noise", "0.25",
              "--label_noise_kind", "asymmetric", "--record_dynamics", "True", "--output_dir", "noisy"])  # fmt: skip
    noise = json.loads(Path("noisy/label_noise.json").read_text())
    lines = [json.loads(line) for line in Path("noisy/label_errors.jsonl").read_text().splitlines()]
    assert len(noise["rows"]) == 12
    wrong = [line for line in lines if line["given_label"] != line["true_label"]]
    assert sorted(line["index"] for line in wrong) == noise["rows"]
    assert all((int(line["true_label"]) + 1) % 10 == int(line["given_label"]) for line in wrong)
    assert {"model", "memory", "history"} <= results_in("noisy")["label_errors"].keys()


def test_early_stopping_by_held_out_pictures(workplace, options):
    cli.main(["--method", "vanilla", *options, "--held_out_share", "0.25", "--output_dir", "stopped"])
    results = results_in("stopped")
    assert results["data"]["train_examples"] == 36
    assert results["best_model"]["held_out_loss"] > 0


def test_other_pixels_are_another_run(workplace, options, monkeypatch):
    cli.main(["--method", "vanilla", *options, "--output_dir", "mine"])
    (planned,) = cli.plan(cli.parse(["--method", "vanilla", *options, "--output_dir", "mine"]))
    planned.run.pixels[int(planned.run.splits["train"]["row"][3]), 0, 0, 0] ^= 1
    assert planned.run.data_digest != results_in("mine")["data"]["digest"]


def test_own_folders_and_a_pipeline_for_them(workplace):
    train, validation = write_folders(workplace / "train", count=6), write_folders(workplace / "validation", count=2)
    command = ["--method", "lstsd", "--train_dir", train, "--validation_dir", validation, "--image_size", "16"]
    command += ["--num_train_epochs", "2", "--mini_generation_epochs", "1", "--use_cpu", "true"]
    cli.main([*command, "--output_dir", "mine"])
    results = results_in("mine")
    assert (results["task"], results["data"]["train_examples"]) == ("custom", 12)
    classify = pipeline("image-classification", model="mine")
    picture = Image.open(workplace / "train" / "bees" / "1.png").convert("RGB")
    scores = {answer["label"]: answer["score"] for answer in classify(picture)}
    assert scores.keys() == {"ants", "bees"}
    # The pipeline's pixels are those of the training.
    (planned,) = cli.plan(cli.parse([*command, "--output_dir", "mine"]))
    model = AutoModelForImageClassification.from_pretrained("mine")
    statistics = pixel_statistics(planned.run.pixels, np.arange(12))
    assert model.config.image_mean == statistics.mean
    pixels = classify.image_processor(picture, return_tensors="pt")["pixel_values"]
    trained_on = planned.run.prepare(workplace / "cache").splits["train"][6 + 1]["pixel_values"]
    torch.testing.assert_close(pixels[0], trained_on, rtol=0, atol=1e-5)
    # A trained model goes on: it is loaded with what its pixels were normalised with.
    prepared_again = cli.plan(cli.parse([*command[:-2], "--model_name_or_path", "mine", "--use_cpu", "true"]))
    prepared = prepared_again[0].run.prepare(workplace / "cache")
    assert_same_weights(prepared.model, model)
    assert prepared.splits["train"].mean == statistics.mean


def test_an_output_layer_follows_the_names_of_its_labels(workplace):
    """A model for bees and ants, on folders of ants and bees."""
    train, validation = write_folders(workplace / "train", count=4), write_folders(workplace / "validation", count=1)
    model = make_network(num_labels=2)
    model.config.id2label, model.config.label2id = {0: "bees", 1: "ants"}, {"bees": 0, "ants": 1}
    model.save_pretrained("mine")
    command = ["--train_dir", train, "--validation_dir", validation, "--model_name_or_path", "mine"]
    (planned,) = cli.plan(cli.parse(["--method", "vanilla", "--use_cpu", "true", *command]))
    prepared = planned.run.prepare(workplace / "cache")
    assert torch.equal(prepared.model.classifier.weight, model.classifier.weight[[1, 0]])
    model.config.id2label, model.config.label2id = {0: "cats", 1: "dogs"}, {"cats": 0, "dogs": 1}
    model.save_pretrained("mine")
    prepared = planned.run.prepare(workplace / "cache")
    assert not torch.equal(prepared.model.classifier.weight, model.classifier.weight)


def test_the_size_of_own_pictures_is_part_of_the_run(workplace):
    train, validation = write_folders(workplace / "train"), write_folders(workplace / "validation", count=1)
    command = ["--method", "vanilla", "--train_dir", train, "--validation_dir", validation, "--image_size"]
    hashes = {cli.plan(cli.parse([*command, size]))[0].run.config_hash for size in ("16", "24")}
    assert len(hashes) == 2


def test_cifar100_from_the_official_files(workplace):
    """The command on a tiny file in the official format."""
    write_cifar_python(workplace / "cifar-100-python", is_100=True)
    cli.main(["--task", "cifar100", "--data", str(workplace), "--method", "lstsd", "--num_train_epochs", "2",
              "--mini_generation_epochs", "1", "--use_cpu", "true", "--output_dir", "mine"])  # fmt: skip
    results = results_in("mine")
    assert (results["data"]["source"], results["data"]["train_examples"]) == ("files", 4)
    assert np.load("mine/predictions.npz")["logits"].shape == (4, 100)


def test_statistics_are_those_of_the_pixels():
    pixels = make_pixels(5)
    found = pixel_statistics(pixels, np.array([0, 3]))
    np.testing.assert_allclose(found.mean, (pixels[[0, 3]] / 255).mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(found.std, (pixels[[0, 3]] / 255).std((0, 2, 3)), atol=1e-6)
    assert pixel_statistics(np.zeros((2, 1, 4, 4), np.uint8), np.arange(2)).std == [1.0]


def test_the_whole_set_is_searched_alike(workplace, options, capsys):
    cli.main(["--method", "vanilla", *options, "--num_train_epochs", "1", "--sweep", "2", "--output_dir", "found"])
    (study,) = (json.loads(path.read_text()) for path in Path("found/sweeps").glob("*.json"))
    assert study["search_space"].keys() == {"learning_rate_factor"}
    experiments(["report", "found"])
    assert "DIGITS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "vanilla"], "`task` is missing. Give --task, or --train_dir and --validation_dir."),
        (["--method", "vanilla", "--train_dir", "x"], "`train_dir` and `validation_dir` go together"),
        (["--method", "vanilla", "--task", "all", "--data", "x"], "`data` is the place of one task, got 4 tasks"),
        (["--method", "vanilla", "--image_size", "4"], "`image_size` must be at least 8, got 4"),
        (["--method", "vanilla", "--image_size", "64", "--task", "digits"], "`image_size` goes with `train_dir`"),
        (["--method", "vanilla", "--train_dir", "x", "--data", "y"], "`data` is about a task"),
        (["--method", "vanilla", "--task", "digits", "--data", "y"], "`data` must not be given with task digits"),
        (
            ["--method", "vanilla", "--task", "digits", "--lr_milestones", "0.3", "--lr_scheduler_type", "cosine"],
            "`lr_milestones` divide a constant learning rate",
        ),
        (
            ["--method", "vanilla", "--task", "digits", "--train_sampling_strategy", "group_by_length"],
            "`train_sampling_strategy` must be random",
        ),
        (["--method", "kd", "--train_dir", "x", "--validation_dir", "y"], "`teacher_model_name_or_path`"),
        (
            ["--method", "vanilla", "--task", "digits", "--label_noise_kind", "asymmetric"],
            "`label_noise_kind` goes with `label_noise`",
        ),
        (["--method", "vanilla", "--lr_milestones", "0.5", "0.2"], "`lr_milestones` must be growing shares"),
        (["--method", "vanilla", "--crop_padding", "-1"], "`crop_padding` must be at least 0, got -1"),
        (["--method", "vanilla", "--task", "digits", "--do_predict", "true"], "`do_predict` is for texts"),
        (
            ["--method", "vanilla", "--task", "digits", "--label_noise", "0.2", "--label_noise_kind", "pairs"],
            "must be symmetric or asymmetric",
        ),
    ],
)
def test_what_cannot_be_run_is_said(workplace, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        cli.plan(cli.parse(arguments))


def test_a_model_for_other_pictures_is_refused(workplace, options, tmp_path):
    make_network(num_labels=10).save_pretrained(tmp_path / "rgb")
    command = [*options, "--method", "vanilla", "--model_name_or_path", str(tmp_path / "rgb")]
    with pytest.raises(InputError, match="must be given pictures with 3 channels, got 1"):
        cli.main(command)
    with pytest.raises(InputError, match="could not be loaded"):
        cli.main([*options, "--method", "vanilla", "--model_name_or_path", str(tmp_path / "nowhere")])


def test_pixels_do_not_depend_on_the_batch():
    from lstsd_hf.images import Images

    data = Images(make_pixels(9), None, [0.5] * 3, [0.25] * 3, crop_padding=1, flip=True)
    together = torch.stack([item["pixel_values"] for item in data.__getitems__(range(9))])
    assert torch.equal(together, torch.stack([data[index]["pixel_values"] for index in range(9)]))


@pytest.mark.parametrize("method", ["snapshot_distillation", "mean_teacher"])
def test_a_resumed_run_with_copies_equals_the_uninterrupted_one(workplace, options, monkeypatch, method):
    """A network in `channels_last`, whose copies are saved and loaded."""
    command = ["--method", method, *options, "--save_strategy", "epoch", "--save_total_limit", "9"]
    command += ["--cycle_epochs", "1"] if method == "snapshot_distillation" else []
    cli.main([*command, "--output_dir", "whole"])
    shutil.copytree("whole", "cut")
    for name in ("results.json", "checkpoint-9", "checkpoint-12"):
        path = Path("cut", name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    cli.main([*command, "--output_dir", "cut", "--resume"])
    whole, cut = (AutoModelForImageClassification.from_pretrained(name) for name in ("whole", "cut"))
    assert_same_weights(whole, cut)


def test_weight_decay_is_for_all_parameters_of_the_papers_networks(workplace, options):
    (planned,) = cli.plan(cli.parse(["--method", "vanilla", *options, "--eval_strategy", "no"]))
    prepared = planned.run.prepare(workplace / "cache")
    trainer = RunTrainer(model=prepared.model, args=planned.run.args, **prepared.trainer_options, teacher="vanilla")
    names = trainer.get_decay_parameter_names(prepared.model)
    assert names == [name for name, _ in prepared.model.named_parameters()]
    assert "norm.weight" in names
