"""Knowledge distillation: where the teacher comes from, what it costs, and what is refused."""

import copy
import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file
from transformers import BertModel

from lstsd_hf import DLB, KD, DLBConfig, KDConfig, LSTSDTrainer, TeacherOutputs
from lstsd_hf.errors import InputError
from lstsd_hf.fixed_teacher import FixedTeacher
from lstsd_hf.glue import cli
from lstsd_hf.label_order import matched_order
from lstsd_hf.teacher_outputs import read_teacher_outputs, write_teacher_outputs
from tests.helpers import (
    assert_same_weights,
    error_of,
    make_examples,
    make_model,
    make_trainer,
    teacher_folder,
    tokenizer,
)

EXAMPLES = 14
ROWS = make_examples(EXAMPLES)


def logits_of_teacher(num_labels=2):
    inputs = torch.tensor([row["input_ids"] for row in make_examples(EXAMPLES)])
    with torch.no_grad():
        return make_model(num_labels, seed=7).eval()(inputs).logits


def trained(make_args, teacher, **options):
    smooth = {"model": make_model(dropout=0.0), "optim": "sgd", "learning_rate": 0.1}
    trainer = make_trainer(make_args, teacher, **(smooth | options))
    trainer.train()
    return trainer


@pytest.fixture
def calls(monkeypatch):
    """How many examples each loaded teacher was run on, in order."""
    teachers = []
    load = FixedTeacher.load.__func__

    def spy(cls, *args):
        teachers.append(load(cls, *args))
        return teachers[-1]

    monkeypatch.setattr(FixedTeacher, "load", classmethod(spy))
    return lambda: [teacher.rows_computed for teacher in teachers]


def test_cached_equals_live_in_one_pass_over_the_data(make_args, calls, tmp_path, monkeypatch):
    monkeypatch.setattr(LSTSDTrainer, "cache_dir", tmp_path / "cache")
    config = {"teacher_model_name_or_path": teacher_folder(), "temperature": 3.0}
    first = trained(make_args, KDConfig(**config))
    second = trained(make_args, KDConfig(**config), seed=1)  # another seed reads the file
    live = trained(make_args, KDConfig(**config, live=True))
    assert calls() == [EXAMPLES, 0, 6 * EXAMPLES]
    assert len([*(tmp_path / "cache").iterdir()]) == 1
    assert_same_weights(first.model, live.model, atol=1e-6, rtol=0)
    assert not torch.equal(first.model.classifier.weight, second.model.classifier.weight)
    assert live.state.log_history[-2]["loss"] == pytest.approx(first.state.log_history[-2]["loss"], abs=1e-6)
    given = trained(make_args, KD(KDConfig(temperature=3.0), model=make_model(seed=7)))
    assert_same_weights(first.model, given.model, atol=1e-6, rtol=0)


def test_another_teacher_has_another_file(make_args, calls, tmp_path, monkeypatch):
    monkeypatch.setattr(LSTSDTrainer, "cache_dir", tmp_path / "cache")
    make_model(seed=8).save_pretrained(tmp_path / "other")
    model = make_model(seed=8)
    model.config.hidden_act = "relu"
    model.save_pretrained(tmp_path / "same weights")
    for name in (teacher_folder(), "other", "same weights"):
        folder, rows = str(tmp_path / name), make_examples(14)
        trained(make_args, KDConfig(teacher_model_name_or_path=folder), train_dataset=rows, max_steps=1)
    trained(
        make_args,
        KDConfig(teacher_model_name_or_path=teacher_folder()),
        train_dataset=make_examples(14, seed=3),
        max_steps=1,
    )
    assert calls() == [EXAMPLES] * 4


def test_numbered_labels_may_be_in_any_order_too():
    numbered = ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert matched_order(["LABEL_2", "LABEL_0", "LABEL_1"], numbered, 3, "a file") == [1, 2, 0]
    assert matched_order(["a", "b", "c"], numbered, 3, "a file") == [0, 1, 2]


def test_labels_are_matched_by_name(make_args, tmp_path):
    """A teacher with its labels the other way round is the same teacher."""
    names, found = ["no", "maybe", "yes"], []
    for position, order in enumerate(([0, 1, 2], [2, 0, 1])):
        teacher = make_model(3, seed=7)
        for parameter in teacher.classifier.parameters():
            parameter.data = parameter.data[order]
        teacher.config.id2label = {index: names[label].upper() for index, label in enumerate(order)}
        teacher.save_pretrained(tmp_path / str(position))
        student = make_model(3, dropout=0.0)
        student.config.id2label = dict(enumerate(names))
        config = KDConfig(teacher_model_name_or_path=str(tmp_path / str(position)))
        found.append(make_trainer(make_args, config, model=student, train_dataset=make_examples(14, 3)))
        found[-1].train()
    assert_same_weights(found[0].model, found[1].model, atol=1e-6, rtol=0)
    student = make_model(3)
    student.config.id2label = dict(enumerate(["no", "perhaps", "yes"]))
    with pytest.raises(
        InputError, match=r"must be the student's, \['no', 'perhaps', 'yes'\], in any order; got \['NO'"
    ):
        make_trainer(make_args, found[0].teacher.config, model=student, train_dataset=make_examples(14, 3)).train()


def write(folder, columns, suffix, labels=None):
    path = folder / f"outputs{suffix}"
    metadata = {} if labels is None else {"labels": json.dumps(labels)}
    if suffix == ".parquet":
        table = pa.table({name: value.tolist() for name, value in columns.items()})
        parquet.write_table(table.replace_schema_metadata(metadata), path)
    else:
        save_file({name: value.clone().contiguous() for name, value in columns.items()}, path, metadata)
    return str(path)


@pytest.mark.parametrize("suffix", [".parquet", ".safetensors"])
@pytest.mark.parametrize("kind", ["logits", "log_probabilities", "probabilities"])
def test_files(make_args, tmp_path, suffix, kind):
    logits = logits_of_teacher()
    values = {"logits": logits, "log_probabilities": logits.log_softmax(-1), "probabilities": logits.softmax(-1)}[kind]
    order = torch.randperm(EXAMPLES)
    path = write(tmp_path, {kind: values[order].contiguous(), "example_index": order}, suffix)
    whole = trained(make_args, KDConfig(teacher_outputs=path))
    model = trained(make_args, KDConfig(teacher_model_name_or_path=teacher_folder()))
    assert_same_weights(whole.model, model.model, atol=2e-5, rtol=0)


def test_votes(make_args):
    """Three of four people: a probability of 3/4; nobody: no teacher."""
    votes = torch.tensor([[3.0, 1.0]] * 13 + [[0.0, 0.0]])
    shares = TeacherOutputs(torch.tensor([[0.75, 0.25]] * 13), "probabilities", torch.arange(13))
    first, second = (trained(make_args, KD(outputs=outputs)) for outputs in (TeacherOutputs(votes, "votes"), shares))
    assert_same_weights(first.model, second.model)
    assert first.teacher.memory.coverage == pytest.approx(13 / 14)
    probabilities, written = first.teacher.example_probabilities()
    torch.testing.assert_close(probabilities[0], torch.tensor([0.75, 0.25]))
    assert written.tolist() == [True] * 13 + [False]


def test_all_but_one_label_says_as_much_as_all(make_args):
    probabilities = logits_of_teacher(3).softmax(-1)
    top = probabilities.topk(2)
    whole = TeacherOutputs(probabilities, "probabilities")
    largest = TeacherOutputs(top.values, "probabilities", top_labels=top.indices)
    data = {"model": make_model(3, dropout=0.0), "train_dataset": make_examples(EXAMPLES, 3)}
    found = [
        trained(make_args, KD(KDConfig(temperature=1.0), outputs=outputs), **copy.deepcopy(data))
        for outputs in (whole, largest)
    ]
    logs = [[entry.get("teacher_agreement_distillation") for entry in item.state.log_history] for item in found]
    assert_same_weights(found[0].model, found[1].model, atol=1e-5, rtol=0)
    assert logs[0] == logs[1]


def test_top_labels_are_matched_by_name_too():
    outputs = TeacherOutputs(
        torch.tensor([[0.7], [0.6]]), "probabilities", None, torch.tensor([[0], [2]]), ["yes", "no", "maybe"]
    )
    rows, _ = outputs.table(2, ["no", "maybe", "yes"])
    assert rows[:, 1].tolist() == [2.0, 1.0]


def test_what_is_written_is_read(tmp_path):
    outputs = TeacherOutputs(torch.randn(3, 2), "logits", torch.tensor([4, 0, 2]), None, ["a", "b"])
    write_teacher_outputs(tmp_path / "new" / "x.safetensors", outputs)
    found = read_teacher_outputs(tmp_path / "new" / "x.safetensors")
    assert torch.equal(found.values, outputs.values)
    assert torch.equal(found.rows, outputs.rows)
    assert (found.kind, found.label_names, found.top_labels) == ("logits", ["a", "b"], None)


NINE = torch.ones(14, 2) / 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"scores": NINE}, r"must have one of logits, log_probabilities, probabilities, votes, got \['scores'\]"),
        ({"logits": NINE, "votes": NINE}, "must have one of logits"),
        ({"probabilities": NINE * 5}, "`probabilities` must be from 0 to 1 as probabilities, got .* in row 0. Name"),
        ({"log_probabilities": NINE}, "`log_probabilities` must be from 0 to 1 as probabilities, got"),
        ({"probabilities": NINE * 0.6}, "must sum to 1 in each row, got sums from 0.6000 to 0.6000"),
        ({"votes": -NINE}, "`votes` must be at least 0, got"),
        ({"logits": NINE * torch.nan}, "`logits` must be finite"),
        ({"logits": NINE[:9]}, "must have a row for each of 14 training examples, got 9"),
        ({"logits": NINE, "example_index": torch.arange(14) + 1}, "must be from 0 to 13, got 1 to 14"),
        ({"logits": NINE, "example_index": torch.zeros(14).long()}, "must have each example once"),
        ({"logits": NINE, "example_index": torch.zeros(14)}, "must be 14 whole numbers"),
        ({"logits": torch.ones(14, 3)}, r"must be the student's, \['LABEL_0', 'LABEL_1'\], in any order; got 3 labels"),
        ({"logits": NINE[:, :1], "top_labels": torch.zeros(14, 1).long()}, "must be log_probabilities or probabilit"),
        ({"probabilities": NINE, "top_labels": torch.zeros(14, 2).long()}, "must name a label once in a row"),
        ({"probabilities": NINE, "top_labels": torch.zeros(14, 1).long()}, "must be whole numbers of shape"),
        ({"probabilities": NINE[:, :1], "top_labels": torch.full((14, 1), 2)}, "must be from 0 to 1, got 2"),
        (
            {"probabilities": NINE, "top_labels": torch.arange(2).repeat(14, 1)},
            "must be fewer than the labels of a model that chooses one of several, got 2 of 2",
        ),
    ],
)
def test_files_that_are_refused(make_args, tmp_path, columns, message):
    path = write(tmp_path, columns, ".safetensors")
    with pytest.raises(InputError, match=message):
        trained(make_args, KDConfig(teacher_outputs=path, temperature=1.0))


def test_other_things_that_are_refused(make_args, tmp_path):
    def refused(message, **options):
        with pytest.raises(InputError, match=message):
            trained(make_args, KDConfig(**options))

    refused("`kd` needs a teacher, got none. Set `teacher_model_name_or_path`")
    refused("must not both be given", teacher_outputs="x.parquet", teacher_model_name_or_path="y")
    refused("`live` must be False with `teacher_outputs`", teacher_outputs="x.parquet", live=True)
    refused("must end with .safetensors or .parquet, got x.csv", teacher_outputs="x.csv")
    refused("found none", teacher_outputs=str(tmp_path / "x.parquet"))
    (tmp_path / "x.safetensors").write_text("nothing")
    refused("must be a whole file of numbers", teacher_outputs=str(tmp_path / "x.safetensors"))
    refused("could not be loaded", teacher_model_name_or_path=str(tmp_path / "nowhere"))
    BertModel(make_model().config).save_pretrained(tmp_path / "encoder")
    refused(
        "must be a fine-tuned classifier, but lacks classifier", teacher_model_name_or_path=str(tmp_path / "encoder")
    )
    folder = tmp_path / "words"
    make_model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    refused("has a tokenizer unlike the student's", teacher_model_name_or_path=str(folder))
    top = write(tmp_path, {"probabilities": NINE[:, :1], "top_labels": torch.zeros(14, 1).long()}, ".safetensors")
    refused("`temperature` must be 1 where only the largest", teacher_outputs=top)
    with pytest.raises(InputError, match="`model` and `outputs` must not both be given"):
        KD(model=make_model(), outputs=TeacherOutputs(NINE, "logits"))


@pytest.mark.parametrize("live", [False, True])
def test_a_run_is_resumed_with_the_same_teacher_only(make_args, tmp_path, live):
    folder = tmp_path / "teacher"
    make_model(seed=7).save_pretrained(folder)
    config = KDConfig(teacher_model_name_or_path=str(folder), live=live)
    options = {"save_strategy": "epoch", "num_train_epochs": 2}
    whole = make_trainer(make_args, config, **options)
    whole.train()
    checkpoint = f"{whole.args.output_dir}/checkpoint-4"
    resumed = make_trainer(make_args, config, **options)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert_same_weights(whole.model, resumed.model)
    make_model(seed=8).save_pretrained(folder)
    with pytest.raises(InputError, match="must be what it was when the checkpoint was saved: its digest was"):
        make_trainer(make_args, config, **options).train(resume_from_checkpoint=checkpoint)


def test_texts_are_read_with_the_teachers_tokenizer(make_args, tmp_path):
    """The student's inputs are shorter and have other numbers."""
    folder = tmp_path / "teacher"
    teacher = make_model(seed=7)
    teacher.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    rows = make_examples(EXAMPLES)
    texts = [" ".join(f"w{token}" for token in row["input_ids"]) for row in rows]
    data = [
        {"text": text, "input_ids": [1, 2, 3], "labels": row["labels"]} for text, row in zip(texts, rows, strict=True)
    ]
    trainer = make_trainer(make_args, KDConfig(teacher_model_name_or_path=str(folder)), train_dataset=data)
    trainer.train()
    torch.testing.assert_close(trainer.teacher.memory.tables()[0][0], logits_of_teacher(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": "a b", "label_text": "yes"}, "text"),  # a label's name would tell the teacher what to say
        ({"sentence": "a b", "guid": "x-1"}, "sentence"),
        ({"premise": "a b", "hypothesis": "c d"}, "premise hypothesis"),
        ({"first": "a b c", "second": "d e f", "third": "g h i"}, None),
    ],
)
def test_which_columns_a_teacher_reads(make_args, columns, expected):
    rows = [{**row, **{name: f"{text} {index}" for name, text in columns.items()}} for index, row in enumerate(ROWS)]
    for row in rows:
        if "label_text" in row:
            row["label_text"] = "yes" if row["labels"] else "no"
    trainer = make_trainer(make_args, None, train_dataset=rows)
    if expected is None:
        with pytest.raises(InputError, match="remove the other columns, or override `training_texts` of the trainer"):
            trainer.training_texts()
        return
    assert trainer.training_texts() == [[row[name] for row in rows] for name in expected.split()]


def test_a_run_of_the_command_teaches_another(workplace, options, capsys):
    """A convolutional network is taught by a transformer with other tokens; the second seed reads what was kept."""
    cli.main([*options, "--method", "vanilla", "--output_dir", "teacher"])
    student = [*options, "--model_name_or_path", "cnn", "--method", "kd", "--teacher_model_name_or_path", "teacher"]
    capsys.readouterr()
    cli.main([*student, "--seeds", "1", "2", "--output_dir", "runs"])
    results = [json.loads(path.read_text()) for path in Path("runs").rglob("results.json")]
    assert len(results) == 2
    assert all(result["config"]["method"]["teacher_model_name_or_path"] == "teacher" for result in results)
    (kept,) = Path("runs/.cache").glob("teacher-outputs-*.safetensors")
    # The file is itself what `teacher_outputs` takes.
    cli.main([*options, "--method", "kd", "--teacher_outputs", str(kept), "--output_dir", "from_file"])
    # What another teacher in the same folder taught is not taken for what this one taught.
    capsys.readouterr()
    cli.main([*student, "--seeds", "1", "2", "--output_dir", "runs"])
    assert capsys.readouterr().out.count("Finished before") == 2
    cli.main([*options, "--method", "vanilla", "--seed", "3", "--output_dir", "teacher", "--overwrite"])
    assert "2 of 2 runs failed" in error_of([*student, "--seeds", "1", "2", "--output_dir", "runs"])


def test_the_command_refuses_what_would_leak_labels(options):
    named = [*options, "--method", "kd", "--teacher_model_name_or_path", "x"]
    assert "`kd` needs a teacher, got none" in error_of([*options, "--method", "kd"])
    assert "`cross_validate` must be 0 with kd" in error_of([*named, "--cross_validate", "3"])
    assert "`sweep` cannot search the options of kd" in error_of([*named, "--sweep", "3"])


def test_a_run_does_not_depend_on_what_else_lies_in_a_folder(tmp_path, monkeypatch):
    """Neither in the present one, where no teacher is named, nor in the teacher's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("1")
    assert KDConfig().source_digest() is None
    make_model(seed=7).save_pretrained(tmp_path / "teacher")
    config = KDConfig(teacher_model_name_or_path="teacher")
    before = config.source_digest()
    for name in ("notes.txt", "training_args.bin"):  # the latter names the folder that a run was told to use
        (tmp_path / "teacher" / name).write_text("2")
    assert config.source_digest() == before
    make_model(seed=8).save_pretrained(tmp_path / "teacher")
    assert config.source_digest() != before


def test_students_with_other_names_share_what_is_kept(make_args, tmp_path, monkeypatch):
    """A teacher without names is matched by position, whatever the student that had it run first called its labels."""
    monkeypatch.setattr(LSTSDTrainer, "cache_dir", tmp_path / "cache")
    tables = []
    for names in (["neg", "pos"], ["pos", "neg"], ["bad", "good"]):
        student = make_model(dropout=0.0)
        student.config.id2label = dict(enumerate(names))
        trainer = trained(make_args, KDConfig(teacher_model_name_or_path=teacher_folder()), model=student, max_steps=1)
        tables.append(trainer.teacher.memory.tables()[0])
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0], tables[2])
    assert len([*(tmp_path / "cache").iterdir()]) == 1


def test_a_teacher_without_a_tokenizer_must_know_the_students_tokens(make_args, tmp_path):
    teacher = make_model(seed=7)
    teacher.resize_token_embeddings(90)
    teacher.save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match="has no tokenizer in its folder and must know the student's tokens, but has 90"
    ):
        trained(make_args, KDConfig(teacher_model_name_or_path=str(tmp_path)))


def test_a_search_keeps_the_given_teacher(make_args):
    teacher = KD(outputs=TeacherOutputs(NINE, "probabilities"))
    other = teacher.with_config(KDConfig(distillation_weight=0.9))
    assert other.config.distillation_weight == 0.9
    trained(make_args, other, max_steps=1)
    assert type(DLBConfig().build().with_config(DLBConfig.paper())).__name__ == "OverlappingDLB"


def test_given_twice(make_args):
    with pytest.raises(InputError, match="A teacher must be given once"):
        KD(KDConfig(teacher_outputs="x.parquet"), model=make_model())
    with pytest.raises(InputError, match="`live` must be False with `outputs`"):
        KD(KDConfig(live=True), outputs=TeacherOutputs(NINE, "logits"))
    with pytest.raises(InputError, match="`kind` must be one of"):
        TeacherOutputs(NINE, "soft")
    with pytest.raises(TypeError, match=r"`outputs` must be `TeacherOutputs`, got Tensor\. Say what the numbers are"):
        KD(outputs=NINE)
    with pytest.raises(TypeError, match=r"`values` must be a tensor, got ndarray\. Use `torch.as_tensor"):
        TeacherOutputs(NINE.numpy(), "logits")
    with pytest.raises(InputError, match="`form` of the config of DLB must be its own, got 'overlap'"):
        DLB(DLBConfig.paper())
    indices = torch.arange(14, dtype=torch.int32)
    assert TeacherOutputs(NINE, "logits", indices).table(14, None)[1].all()
    below = TeacherOutputs(NINE[:, :1], "probabilities", None, torch.full((14, 1), -1))
    with pytest.raises(InputError, match="`top_labels` must be from 0 to 1, got -1"):
        below.table(14, ["a", "b"])
