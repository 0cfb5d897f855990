"""Whatever happens to a checkpoint or to the data, a run goes on exactly or says what is wrong."""

import dataclasses
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerState

from lstsd_hf import (
    DLBConfig,
    KDConfig,
    LSTSDConfig,
    LSTSDSingleConfig,
    LSTSDTrainer,
    MeanTeacherConfig,
    NoTeacherConfig,
    SnapshotDistillationConfig,
    SnapshotEnsembleConfig,
)
from lstsd_hf.checkpoint import (
    TEACHER_STATE_NAME,
    _read_teacher_file,
    check_whole,
    newest_whole_checkpoint,
    save_teacher_state,
)
from lstsd_hf.errors import InputError
from lstsd_hf.fingerprint import describe_dataset
from tests import helpers
from tests.helpers import ROOT, assert_same_weights, make_examples, make_model, training_arguments

CONFIG = LSTSDConfig(mini_generation_epochs=1)
# What a checkpoint consists of.
FILES = ["config.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", TEACHER_STATE_NAME]
FILES += ["trainer_state.json", "training_args.bin"]


def make_trainer(make_args, folder, config=CONFIG, **options):
    options = {
        "num_train_epochs": 3,
        "save_strategy": "steps",
        "save_steps": 3,
        "eval_dataset": make_examples(4),
    } | options
    return helpers.make_trainer(make_args, config, output_dir=str(folder), **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 12 steps with checkpoints after 3, 6, 9 and 12 of them."""
    trainer = make_trainer(training_arguments, tmp_path_factory.mktemp("whole"))
    trainer.train()
    return trainer


@pytest.fixture
def run(whole, tmp_path):
    """A copy of its folder, interrupted after 9 steps, the checkpoints in the order in which they were written."""
    folder = tmp_path / "run"
    shutil.copytree(whole.args.output_dir, folder)
    shutil.rmtree(folder / "checkpoint-12")
    for position, step in enumerate((3, 6, 9)):
        os.utime(folder / f"checkpoint-{step}" / "trainer_state.json", ns=(position, position))
    return folder


def resume_error(make_args, folder, checkpoint=True, **options):
    trainer = make_trainer(make_args, folder, **options)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(InputError) as error:
        trainer.train(resume_from_checkpoint=checkpoint if checkpoint is True else str(checkpoint))
    assert_same_weights(trainer.model, before)  # the model at hand is not half overwritten
    return str(error.value)


def test_a_checkpoint_consists_of_these_files(run):
    assert sorted(path.name for path in (run / "checkpoint-9").iterdir()) == FILES


# ---- Files ----


def newest(folder, needs_teacher):
    return newest_whole_checkpoint(folder, needs_teacher)[0]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    # A digit or a byte in the middle: JSON stays JSON.
    content = bytearray(path.read_bytes())
    digits = [match.start() for match in re.finditer(rb"[1-8]", content)] if path.suffix == ".json" else []
    position = digits[len(digits) // 2] if digits else len(content) // 2
    content[position] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": truncate,
    "flipped": flip,
    "deleted": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_passed_over(run, make_args, name, damage, caplog):
    checkpoint = run / "checkpoint-9"
    DAMAGES[damage](checkpoint / name)
    message = resume_error(make_args, run, checkpoint)
    assert str(checkpoint) in message
    assert name in message
    assert newest(run, needs_teacher=True) == run / "checkpoint-6"


def test_any_flipped_byte_of_the_teachers_file_is_found(run):
    """Its header, its metadata and its tables; what is not found changes nothing (padding, a truth value of 33)."""
    path = run / "checkpoint-9" / TEACHER_STATE_NAME
    content = path.read_bytes()
    expected: dict = {}
    expected_metadata = _read_teacher_file(path.parent, expected)
    generator, found = random.Random(0), 0
    for position in {*range(0, 16), *generator.sample(range(len(content)), 200)}:
        changed = bytearray(content)
        changed[position] ^= 1 << generator.randrange(8)
        path.write_bytes(changed)
        tensors: dict = {}
        try:
            metadata = _read_teacher_file(path.parent, tensors)
        except InputError:
            found += 1
        else:
            assert metadata == expected_metadata
            assert_same_weights(tensors, expected)
    assert found > 180


def test_the_run_goes_on_exactly_from_the_newest_whole_checkpoint(run, whole, make_args, caplog):
    flip(run / "checkpoint-9" / "model.safetensors")
    trainer = make_trainer(make_args, run)
    trainer.train(resume_from_checkpoint=True)
    assert_same_weights(trainer.model, whole.model)
    messages = [record.getMessage() for record in caplog.records if record.name == "lstsd_hf.checkpoint"]
    assert messages == [
        f"Resuming from {run / 'checkpoint-6'}, not from a later one. {run / 'checkpoint-9' / 'model.safetensors'} is "
        "damaged: its content is not what was written. Resume from another checkpoint; `resume_from_checkpoint=True` "
        "picks the newest one that is whole."
    ]


def test_weights_may_be_divided_into_several_files(run, whole, make_args):
    """As they are for an upload; a byte that is another is found."""
    checkpoint = run / "checkpoint-9"
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for shard, own in shards.items():
        save_file({name: tensors[name] for name in own}, checkpoint / shard)
    places = {name: shard for shard, own in shards.items() for name in own}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    trainer = make_trainer(make_args, run)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert_same_weights(trainer.model, whole.model)
    for damage in ("flipped", "truncated", "deleted"):
        content = (checkpoint / "b.safetensors").read_bytes()
        DAMAGES[damage](checkpoint / "b.safetensors")
        assert "must contain `model.safetensors`, found none" in resume_error(make_args, run, checkpoint)
        (checkpoint / "b.safetensors").write_bytes(content)
    for index in ("", "null", "[]", '{"weight_map": []}', '{"weight_map": {"a": 3}}'):
        (checkpoint / "model.safetensors.index.json").write_text(index)
        assert "must contain `model.safetensors`, found none" in resume_error(make_args, run, checkpoint)


def test_the_newest_checkpoint_is_not_the_highest_number(run, make_args):
    """What is left of an earlier, longer run in the same folder is older."""
    (run / "checkpoint-3").rename(run / "checkpoint-30")
    assert newest(run, needs_teacher=True) == run / "checkpoint-9"


def test_a_copy_with_other_times_has_the_same_newest_checkpoint(run):
    for position, step in enumerate((9, 6, 3)):
        os.utime(run / f"checkpoint-{step}" / "trainer_state.json", ns=(position, position))
    assert newest(run, needs_teacher=True) == run / "checkpoint-9"
    # Without a teacher there is nothing else to go by.
    for path in run.glob("checkpoint-*/teacher_state.safetensors"):
        path.unlink()
    assert newest(run, needs_teacher=False) == run / "checkpoint-3"


@pytest.mark.parametrize("config", [CONFIG, NoTeacherConfig()])
def test_an_interrupted_save_is_no_checkpoint(run, make_args, tmp_path, config):
    needs_teacher = config is CONFIG
    (run / "checkpoint-99").mkdir()
    assert newest(run, needs_teacher) == run / "checkpoint-9"
    (tmp_path / "empty" / "checkpoint-99").mkdir(parents=True)
    if not needs_teacher:
        # Stock's error.
        with pytest.raises(ValueError, match="Can't find a valid checkpoint"):
            make_trainer(make_args, tmp_path / "empty", config=config).train(resume_from_checkpoint=True)
        return
    message = resume_error(make_args, tmp_path / "empty", config=config)
    assert message == (
        f"No valid checkpoint found in output directory ({tmp_path / 'empty'}): `output_dir` must "
        "contain a whole one to resume from. Leave out `resume_from_checkpoint` to start a new run."
    )


def test_every_checkpoint_damaged(run, make_args):
    for step in (3, 6, 9):
        truncate(run / f"checkpoint-{step}" / "optimizer.pt")
    message = resume_error(make_args, run)
    assert message.startswith(f"One of the checkpoints in {run} must be whole, found none. ")
    assert message.count("optimizer.pt is damaged") == 3


def test_an_overwritten_checkpoint_is_not_taken_for_whole(run, whole, make_args, monkeypatch):
    """A run that writes over an older checkpoint of the same step, and dies in the middle."""
    trainer = make_trainer(make_args, run)

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_save_rng_state", die)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=str(run / "checkpoint-6"))
    assert (run / "checkpoint-9" / TEACHER_STATE_NAME).exists()
    assert newest(run, needs_teacher=True) == run / "checkpoint-6"
    assert newest(run, needs_teacher=False) == run / "checkpoint-6"


def test_a_file_of_another_format_version(run, make_args):
    from safetensors import safe_open

    path = run / "checkpoint-9" / TEACHER_STATE_NAME
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | {"format_version": "2"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata)
    message = resume_error(make_args, run, run / "checkpoint-9")
    assert message == (
        f"`format_version` of {path} must be 5, got 2: another version of lstsd_hf wrote it. Resume with that version, "
        "or start a new run."
    )


def test_files_of_later_processes_and_in_folders_belong_to_a_checkpoint(run, make_args, monkeypatch):
    """Two processes' random states, and an optimizer in a folder as FSDP writes it."""
    trainer = make_trainer(make_args, run)
    save_scaler = trainer._save_scaler

    def save(output_dir):
        Path(output_dir, "optimizer_0").mkdir()
        Path(output_dir, "optimizer_0", "shard.distcp").write_text("weights")
        Path(output_dir, "scaler.pt").write_bytes(Path(output_dir, "scheduler.pt").read_bytes())
        save_scaler(output_dir)

    monkeypatch.setattr(trainer, "_save_scaler", save)
    # What stands in for Trainer's own scaler is written before the teacher's file.
    trainer.train(resume_from_checkpoint=True)
    checkpoint = run / "checkpoint-12"
    check_whole(checkpoint, needs_teacher=True)
    for name in ("optimizer_0/shard.distcp", "scaler.pt"):
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).unlink()
        with pytest.raises(InputError, match=f"must contain `{name}`, found none: it was deleted or moved"):
            check_whole(checkpoint, needs_teacher=True)
        (checkpoint / name).write_bytes(content)
    check_whole(checkpoint, needs_teacher=True)


@pytest.mark.parametrize(
    ("ranks", "names"), [(range(2), ["rng_state_0.pth", "rng_state_1.pth"]), ([1], ["rng_state_1.pth"])]
)
def test_each_process_leaves_its_random_state(run, tmp_path, ranks, names):
    """All of them in a shared folder, a node's own where each node has its own."""
    folder = tmp_path / "checkpoint-9"
    shutil.copytree(run / "checkpoint-9", folder)
    state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    content = (folder / "rng_state.pth").read_bytes()
    for path in (folder / "rng_state.pth", folder / TEACHER_STATE_NAME):
        path.unlink()
    save_teacher_state({}, {}, state, ranks, str(folder))
    for name in names:
        with pytest.raises(
            InputError, match=f"must contain `{name}`, the random state of one of its processes, found no"
        ):
            check_whole(folder, needs_teacher=True)
        (folder / name).write_bytes(content)
    check_whole(folder, needs_teacher=True)


def test_metrics_with_numbers_for_names(make_args, tmp_path):
    """JSON has texts only for names, and sorts them otherwise than numbers."""
    trainer = make_trainer(make_args, tmp_path, eval_strategy="steps", eval_steps=3)
    trainer.compute_metrics = lambda prediction: {"per_class": dict.fromkeys(range(12), 0.5)}
    trainer.train()
    assert newest(tmp_path, needs_teacher=True) == tmp_path / "checkpoint-12"


def test_options_that_json_writes_otherwise(make_args, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Config(LSTSDConfig):
        layers: tuple = (1, 2)

    config = Config(mini_generation_epochs=1)
    make_trainer(make_args, tmp_path, config=config).train()
    make_trainer(make_args, tmp_path, config=config).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("config", [MeanTeacherConfig(), SnapshotEnsembleConfig(cycle_epochs=1)])
def test_a_best_model_without_its_copies_is_refused_in_time(make_args, tmp_path, config):
    trainer = make_trainer(
        make_args,
        tmp_path,
        config=config,
        eval_strategy="steps",
        eval_steps=3,
        save_only_model=True,
        load_best_model_at_end=True,
    )
    with pytest.raises(InputError, match="`save_only_model` must be False with `load_best_model_at_end` and "):
        trainer.train()
    assert trainer.state.global_step == 0


# ---- Writing ----

FULL_DISK = """
import resource, signal, sys
from tests.test_resume import make_trainer
from tests.helpers import training_arguments

folder, limit = sys.argv[1], int(sys.argv[2])
trainer = make_trainer(training_arguments, folder)
save = trainer._save_checkpoint
def limited(*arguments):
    if trainer.state.global_step == 9:
        # No file may become larger: writing more fails as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    save(*arguments)
trainer._save_checkpoint = limited
try:
    trainer.train()
except OSError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(error)
"""


@pytest.mark.parametrize(
    "limit", [100, pytest.param(1500, marks=pytest.mark.slow), pytest.param(20_000, marks=pytest.mark.slow), 60_000]
)
def test_a_full_disk(tmp_path, whole, make_args, limit):
    """From the first small file to the optimizer's: the error is named, and the run goes on exactly."""
    sizes = [path.stat().st_size for path in Path(whole.args.output_dir, "checkpoint-9").iterdir()]
    assert max(sizes) > limit
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "run"), str(limit)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert re.search(
        rf"The checkpoint {tmp_path / 'run' / 'checkpoint-9'} could not be written: .*It will not be taken for whole; "
        "earlier checkpoints are as they were.",
        finished.stdout,
        re.DOTALL,
    ), finished.stdout
    assert newest(tmp_path / "run", needs_teacher=True) == tmp_path / "run" / "checkpoint-6"
    assert not list((tmp_path / "run").rglob("*.tmp"))
    trainer = make_trainer(make_args, tmp_path / "run")
    trainer.train(resume_from_checkpoint=True)
    assert_same_weights(trainer.model, whole.model)


@pytest.fixture
def everybodys_folder():
    """One that other users reach too, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_a_read_only_folder(run, everybodys_folder, make_args, monkeypatch):
    folder = shutil.copytree(run, everybodys_folder / "run")
    trainer = make_trainer(make_args, folder)
    save = trainer._save_checkpoint

    def save_as_a_user(*arguments):
        # Permissions do not stop the superuser.
        user = os.geteuid()
        os.seteuid(user or 65534)
        try:
            save(*arguments)
        finally:
            os.seteuid(user)

    monkeypatch.setattr(trainer, "_save_checkpoint", save_as_a_user)
    os.chmod(folder, 0o555)
    with pytest.raises(
        OSError,
        match=r"The checkpoint .*checkpoint-12 could not be written: .*Permission denied.*earlier checkpoints are as",
    ):
        trainer.train(resume_from_checkpoint=True)
    os.chmod(folder, 0o755)
    assert newest(folder, needs_teacher=True) == folder / "checkpoint-9"


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory."), ValueError("no")])
def test_other_errors_while_saving_stay_what_they_are(run, make_args, monkeypatch, error):
    trainer = make_trainer(make_args, run)

    def fail():
        raise error

    monkeypatch.setattr(trainer.teacher, "state_dict", fail)
    with pytest.raises(type(error), match=re.escape(str(error))):
        trainer.train(resume_from_checkpoint=True)


# ---- Data and settings ----


@pytest.fixture
def table():
    return datasets.Dataset.from_list(make_examples(14))


def edited(table, column, row, value):
    rows = table.to_list()
    rows[row][column] = value
    return datasets.Dataset.from_list(rows, features=table.features)


def same_labels_in_another_order(table):
    first, second = [row for row in range(14) if table[row]["labels"] == 1][:2]
    order = list(range(14))
    order[first], order[second] = second, first
    return order


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda table: table.select(range(13, -1, -1)), "labels_sha256"),
        (lambda table: table.select(same_labels_in_another_order(table)), "rows_sha256"),
        (lambda table: table.select(range(13)), "num_examples"),
        (lambda table: edited(table, "labels", 3, 1 - table[3]["labels"]), "labels_sha256"),
        (lambda table: edited(table, "input_ids", 3, [9] * 8), "rows_sha256"),
        (lambda table: table.add_column("token_type_ids", [[0] * 8] * 14), "rows_sha256"),
    ],
)
def test_other_data_is_refused(make_args, tmp_path, table, change, field):
    make_trainer(make_args, tmp_path, train_dataset=table).train()
    message = resume_error(make_args, tmp_path, train_dataset=change(table))
    path = tmp_path / "checkpoint-12" / TEACHER_STATE_NAME
    assert re.match(
        rf"`{field}` must be what it was when {path} was saved: it was \S+, now it is \S+\. (The training .*)?Resume",
        message,
    )
    assert ("are others, or in another order." in message) == (field != "num_examples")


@pytest.mark.parametrize(
    ("change", "field"),
    [(lambda rows: rows[:-1], "num_examples"), (lambda rows: rows[::-1], "labels_sha256")],
)
def test_other_data_in_a_list_is_refused(run, make_args, change, field):
    assert f"`{field}` must be" in resume_error(make_args, run, train_dataset=change(make_examples(14)))


@pytest.mark.parametrize(
    "same",
    [
        lambda table: table.select(range(13, -1, -1)).select(range(13, -1, -1)),
        lambda table: datasets.concatenate_datasets([table.select(range(5)), table.select(range(5, 14))]),
        lambda table: table.with_format("torch"),
        lambda table: datasets.Dataset.from_list(table.to_list(), features=table.features),
    ],
)
def test_the_same_rows_in_another_form_are_the_same_data(table, same):
    assert describe_dataset(same(table)) == describe_dataset(table)


def test_where_the_rows_lie_is_no_part_of_the_data():
    """Columns as tokenizers make them, and others, over several batches of the digest."""
    count = 2501
    features = datasets.Features(
        {
            "input_ids": datasets.List(datasets.Value("int32")),
            "attention_mask": datasets.List(datasets.Value("int8")),
            "text": datasets.Value("string"),
            "flag": datasets.Value("bool"),
            "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "score": datasets.Value("float32"),
            "label": datasets.Value("int64"),
        }
    )
    rows = [
        {
            "input_ids": list(range(index % 7)),
            "attention_mask": [1] * (index % 5) if index % 11 else None,
            "text": f"text {index}" if index % 3 else None,
            "flag": index % 4 == 0 if index % 5 else None,
            "image": {"bytes": bytes(index % 13), "path": None} if index % 17 else None,
            "score": index / 3,
            "label": index % 2,
        }
        for index in range(count)
    ]
    table = datasets.Dataset.from_list(rows, features=features)
    expected = describe_dataset(table)
    reverse = range(count - 1, -1, -1)
    others = [
        table.select(range(count)),
        table.select(reverse).select(reverse),
        table.map(lambda row: row, writer_batch_size=700),
        datasets.concatenate_datasets([table.select(range(1234)), table.select(range(1234, count))]),
    ]
    for other in others:
        assert describe_dataset(other) == expected
    for column, value in (
        ("input_ids", [5]),
        ("attention_mask", [1, 1]),
        ("text", "other"),
        ("flag", None),
        ("image", None),
        ("image", {"bytes": b"other", "path": None}),
        ("score", 0.5),
    ):
        changed = [*rows[:2001], {**rows[2001], column: value}, *rows[2002:]]
        found = describe_dataset(datasets.Dataset.from_list(changed, features=features))
        assert found["rows_sha256"] != expected["rows_sha256"], column
        assert found["labels_sha256"] == expected["labels_sha256"]
    # The same numbers in other rows.
    moved = [{**rows[0], "input_ids": [1]}, {**rows[1], "input_ids": []}, *rows[2:]]
    other = [{**rows[0], "input_ids": []}, {**rows[1], "input_ids": [1]}, *rows[2:]]
    digests = [describe_dataset(datasets.Dataset.from_list(found, features=features)) for found in (moved, other)]
    assert digests[0] != digests[1]


def test_labels_of_a_dataset_that_names_them(make_args, tmp_path):
    """Its items, which may be slow, are not looked at; neither are those of one without a length or items."""

    class Slow(torch.utils.data.Dataset):
        labels = torch.tensor([0, 1, 1])

        def __len__(self):
            return 3

        def __getitem__(self, index):
            raise AssertionError

    class Stream(torch.utils.data.IterableDataset):
        def __len__(self):
            return 3

        def __iter__(self):
            raise AssertionError

    class Lazy(torch.utils.data.Dataset):
        """Opens its file when an item is asked for first: in each worker, but never in the process that forks them."""

        file = None

        def __len__(self):
            return 3

        def __getitem__(self, index):
            self.file = self.file or open(__file__)  # noqa: SIM115 (as such datasets do)
            return {"label": 0 if index == 0 else 1}

    class Pairs(Lazy):
        read = 0

        def __getitem__(self, index):
            Pairs.read += 1
            return index, index

    lazy = Lazy()
    assert describe_dataset(lazy) == describe_dataset(Slow())
    assert lazy.file is None
    assert describe_dataset(Pairs())["labels_sha256"] is None
    assert Pairs.read == 1
    same_labels = describe_dataset([{"labels": 0}, {"labels": 1}, {"label": 1}])
    assert describe_dataset(Slow()) == same_labels | {"rows_sha256": None}
    assert set(describe_dataset(Stream()).values()) == {None}
    for label in (np.float32(1), np.datetime64("2020-01-01"), [1.0, 0.0]):
        assert describe_dataset([{"labels": label}])["labels_sha256"] is not None
    targets = [[{"target": label}] for label in (0, 1)]
    assert describe_dataset(targets[0])["labels_sha256"] is None
    assert len({describe_dataset(rows, ["target"])["labels_sha256"] for rows in targets}) == 2


def test_data_that_cannot_be_read_are_an_error_before_the_first_step(make_args, tmp_path):
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 14

        def __getitem__(self, index):
            if index == 13:
                raise OSError("cannot identify image file")
            return make_examples(14)[index]

    trainer = make_trainer(make_args, tmp_path, train_dataset=Broken())
    with pytest.raises(OSError, match="cannot identify image file"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize(
    "config_of",
    [
        lambda _: LSTSDSingleConfig(),
        lambda _: SnapshotDistillationConfig(cycle_epochs=1, store_predictions=True),
        lambda teacher: KDConfig(teacher_model_name_or_path=teacher),
    ],
    ids=["lstsd_single", "snapshot_distillation", "kd"],
)
def test_a_pass_over_data_augmented_at_random_is_resumed_exactly(tmp_path, config_of):
    rows = make_examples(14)
    make_model(seed=7).save_pretrained(tmp_path / "teacher")

    class Augmented(torch.utils.data.Dataset):
        def __init__(self):
            self.labels = [row["labels"] for row in rows]

        def __len__(self):
            return len(rows)

        def __getitem__(self, index):
            tokens = list(rows[index]["input_ids"])
            tokens[random.randrange(len(tokens))] = np.random.randint(1, 9)
            tokens[int(torch.randint(len(tokens), ()))] = 1
            return {**rows[index], "input_ids": tokens}

    def trained(**options):
        trainer = LSTSDTrainer(
            model=make_model(),
            args=training_arguments(
                output_dir=str(tmp_path / "run"), num_train_epochs=4, save_strategy="epoch", learning_rate=1e-2
            ),
            train_dataset=Augmented(),
            teacher=config_of(str(tmp_path / "teacher")),
        )
        trainer.cache_dir = tmp_path / "cache"
        trainer.train(**options)
        return trainer

    whole = trained()
    middle = f"{tmp_path}/run/checkpoint-{whole.state.max_steps // 2}"
    assert_same_weights(whole.model, trained(resume_from_checkpoint=middle).model)


def test_looking_at_the_data_draws_no_random_numbers():
    class Augmented(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            noise = torch.rand(1).item() + np.random.rand() + random.random()
            return {"input_ids": [1, noise], "labels": torch.tensor(index % 2)}

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    description = describe_dataset(Augmented())
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    same_labels = describe_dataset([{"labels": 0}, {"labels": 1}, {"label": 0}])
    assert description == same_labels | {"rows_sha256": None}


@pytest.mark.parametrize(
    ("options", "field", "was", "now"),
    [
        ({"config": MeanTeacherConfig()}, "teacher", "lstsd", "mean_teacher"),
        ({"per_device_train_batch_size": 2}, "global_batch_size", 4, 2),
        ({"gradient_accumulation_steps": 2}, "global_batch_size", 4, 8),
    ],
)
def test_another_run_is_refused(run, make_args, options, field, was, now):
    trainer = make_trainer(make_args, run, **options)
    with pytest.raises(InputError) as error:
        trainer.train(resume_from_checkpoint=True)
    path = run / "checkpoint-9" / TEACHER_STATE_NAME
    assert str(error.value) == (
        f"`{field}` must be what it was when {path} was saved: it was {was!r}, now it is {now!r}. Resume with the same "
        "data and settings, or start a new run."
    )


def test_another_number_of_labels_is_refused(run, make_args):
    trainer = make_trainer(make_args, run)
    trainer.model = make_model(num_labels=3)
    with pytest.raises(InputError, match=r"`num_labels` must be what it was when .* was saved: it was 2, now it is 3"):
        trainer.train(resume_from_checkpoint=True)


def test_the_same_batch_in_other_pieces_is_accepted(run, make_args):
    trainer = make_trainer(make_args, run, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 12


def test_weights_and_length_may_change_if_told_so(run, make_args):
    changed = LSTSDConfig(lambda_short=0.0, lambda_long=3.0, mini_generation_epochs=2)
    assert "must be what it was" in resume_error(make_args, run, config=changed)
    trainer = make_trainer(make_args, run, config=changed)
    trainer.train(resume_from_checkpoint=True, allow_teacher_changes=True)
    losses = [entry for entry in trainer.state.log_history if "loss" in entry and entry["step"] > 9]
    assert len(losses) == 3
    assert all(entry["loss_long"] > 0 and "loss_short" not in entry for entry in losses)


def test_another_method_may_not_change(run, make_args):
    trainer = make_trainer(make_args, run, config=MeanTeacherConfig())
    with pytest.raises(InputError, match="`teacher` must be what it was"):
        trainer.train(resume_from_checkpoint=True, allow_teacher_changes=True)


def test_no_such_checkpoint(make_args, tmp_path):
    message = resume_error(make_args, tmp_path, tmp_path / "checkpoint-7")
    assert message == (
        f"Can't find a valid checkpoint at {tmp_path / 'checkpoint-7'}: `resume_from_checkpoint` must be a checkpoint "
        "folder or True."
    )


def test_dlb_goes_on_with_the_batches_of_as_many_processes(make_args, tmp_path, monkeypatch):
    config = DLBConfig()
    make_trainer(make_args, tmp_path, config=config).train()
    trainer = make_trainer(make_args, tmp_path, config=config)
    monkeypatch.setattr("lstsd_hf.memory.last_step.num_processes", lambda: 2)
    with pytest.raises(
        InputError, match=r"`num_processes` must be 1 to resume this method, got 2: each process goes on with the"
    ):
        trainer.train(resume_from_checkpoint=True)


def test_older_checkpoints_go_when_every_process_has_written(make_args, tmp_path, monkeypatch):
    """`trainer_state.json` makes a checkpoint whole, and then the older ones are deleted."""
    said = []
    trainer = make_trainer(make_args, tmp_path)
    save, wait = Trainer._save_rng_state, trainer.accelerator.wait_for_everyone

    def waits():
        state = tmp_path / "checkpoint-3" / "trainer_state.json"
        said.append("waits, whole" if state.exists() else "waits")
        wait()

    monkeypatch.setattr(Trainer, "_save_rng_state", lambda self, folder: (save(self, folder), said.append("random"))[0])
    monkeypatch.setattr(trainer.accelerator, "wait_for_everyone", waits)
    trainer.train()
    assert said[said.index("random") + 1] == "waits"


def test_another_number_of_steps_in_an_epoch_is_refused(make_args, tmp_path):
    """With the same batch over all processes, a last one that is dropped on each of them may be all or nothing."""
    trainer = make_trainer(make_args, tmp_path)
    trainer.train()
    again = make_trainer(make_args, tmp_path, dataloader_drop_last=True)
    with pytest.raises(
        InputError, match=r"as many optimizer steps as when the checkpoint was saved: it had 4, now it h"
    ):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


@pytest.mark.parametrize(("splits", "batch"), [(False, 8), (True, 4)])
def test_split_batches_are_divided_over_the_processes(make_args, tmp_path, monkeypatch, splits, batch):
    trainer = make_trainer(make_args, tmp_path, accelerator_config={"split_batches": splits})
    monkeypatch.setattr(type(trainer.args), "world_size", property(lambda args: 2))
    assert trainer._batch_description() == {"global_batch_size": batch}
