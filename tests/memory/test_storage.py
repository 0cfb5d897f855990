"""Where tables are kept makes no difference to what they say; how precisely, a rounding."""

import pytest
import torch

from lstsd_hf import (
    ConstantMemory,
    InputError,
    LatestMemory,
    LSTSDConfig,
    LSTSDTrainer,
    MovingAverageMemory,
    SnapshotDistillationConfig,
    TableStorage,
    TeacherMemory,
)
from lstsd_hf.losses import kl_student_teacher
from lstsd_hf.memory import staged
from lstsd_hf.memory import storage as storage_module
from tests.helpers import MULTI, assert_same_weights, make_data, make_examples, make_model

CONFIG = LSTSDConfig(mini_generation_epochs=1)


@pytest.mark.parametrize(
    ("text", "place", "precision"),
    [
        ("cpu", "cpu", "fp32"),
        ("bf16", "cpu", "bf16"),
        ("disk", "disk", "fp32"),
        ("fp16, disk", "disk", "fp16"),
        ("top-16", "cpu", "top-16"),
        ("disk,bf16,top-4", "disk", "bf16,top-4"),
    ],
)
def test_texts(text, place, precision, tmp_path):
    storage = TableStorage.parse(text, tmp_path).on("cpu")
    assert storage.form == precision
    assert storage.on_disk == (place == "disk")
    assert storage.device == torch.device("cpu")


@pytest.mark.parametrize("text", ["gpu", "bf16,fp16", "cpu,disk", "disk,cpu", "", "cpu,cuda", "top-0", "top-2,top-3"])
def test_other_texts(text, tmp_path):
    with pytest.raises(InputError) as error:
        TableStorage.parse(text, tmp_path)
    assert str(error.value) == (
        "`memory_storage` must be a place (a device such as 'cpu', or 'disk'), a precision (fp32, bf16, fp16), a "
        f"number of largest probabilities ('top-16'), 'sharded', or several of these, as in 'disk,bf16', got {text!r}."
    )


def used(memory, *options):
    """A memory after three epochs, in which some examples are missing, repeated or not finite."""
    generator = torch.Generator().manual_seed(0)
    for epoch in range(1, 4):
        for _ in range(5):
            indices = torch.randint(0, memory.num_examples, (8,), generator=generator)
            rows = torch.randn(8, memory.num_labels, generator=generator)
            rows[0] = torch.nan
            memory.stage(indices, rows)
        memory.transition(epoch, *options)
    return memory.read(torch.arange(memory.num_examples))


@pytest.mark.parametrize(
    ("memory_class", "options"), [(TeacherMemory, (True,)), (LatestMemory, ()), (MovingAverageMemory, (0.5,))]
)
def test_every_place_and_any_parts_say_the_same(memory_class, options, tmp_path, monkeypatch):
    rows, written = used(memory_class(40, 3), *options)
    assert 0 < written.float().mean() < 1
    on_disk = used(memory_class(40, 3, TableStorage.parse("disk", tmp_path)), *options)
    assert list(tmp_path.iterdir()) == []  # files without a name
    monkeypatch.setattr(staged, "_NUMBERS_IN_CACHE", 7 * 3)
    monkeypatch.setattr(staged, "_MOST_BATCHES", 2)
    for found in (on_disk, used(memory_class(40, 3), *options)):
        assert torch.equal(found[0], rows)
        assert torch.equal(found[1], written)


@pytest.mark.parametrize(("precision", "error"), [("bf16", 2**-8), ("fp16", 2**-11)])
def test_a_precision_rounds(precision, error):
    memory = TeacherMemory(40, 3, TableStorage.parse(precision))
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(40, 3, generator=generator)
    given[0, 1] = -torch.inf
    memory.stage(torch.arange(40), given)
    memory.transition(1, True)
    rows, written = memory.read(torch.arange(40))
    assert rows.dtype == torch.float32
    assert written.all()
    assert memory.state_dict()["rows"].dtype == TableStorage.parse(precision).dtype
    is_finite = given.isfinite()
    assert torch.equal(rows[0].isfinite(), is_finite)
    ratio = (rows[0] / given)[is_finite]
    assert 0 < (ratio - 1).abs().max() <= error


def test_a_gpu_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        InputError, match=r"`memory_storage` must be on this machine, got cuda:1 and no GPU\. Use 'cpu'"
    ):
        TableStorage.of("bf16,cuda:1", tmp_path)


def test_a_number_too_large_for_the_precision_is_no_prediction():
    memory = LatestMemory(2, 2, TableStorage.parse("fp16"))
    memory.stage(torch.tensor([0, 1]), torch.tensor([[1e5, 0.0], [1.0, 0.0]]))
    memory.transition(1)
    assert memory.written.tolist() == [False, True]


def test_given_predictions_on_disk(tmp_path):
    table = torch.randn(5, 2)
    memory = ConstantMemory(table, storage=TableStorage.parse("disk,bf16", tmp_path))
    assert torch.equal(memory.read(torch.arange(5))[0][0], table)  # as they were given
    assert memory.digest == ConstantMemory(table).digest


def test_tables_that_are_too_large(monkeypatch, tmp_path):
    free = {"cpu": 10 * 2**30, "disk": 100 * 2**30}
    monkeypatch.setattr(TableStorage, "free_bytes", property(lambda storage: free[storage._place]))
    begin = "The tables of TeacherMemory must fit into what is free on cpu, 10.00 GiB for each process, but need "
    # Two tables and a staged one of two fp32 columns, a count and two flags: 30 bytes for each example.
    with pytest.raises(InputError) as error:
        TeacherMemory(2**28 * 3 // 2, 2)
    assert str(error.value) == begin + "11.25 GiB. Use `memory_storage='bf16'` (8.25 GiB)."
    with pytest.raises(InputError) as error:
        TeacherMemory(2**30, 2)
    assert str(error.value) == begin + "30.00 GiB. Use `memory_storage='disk'` (30.00 GiB)."
    with pytest.raises(InputError) as error:
        TeacherMemory(2**32, 2, TableStorage.parse("bf16"))
    assert str(error.value) == begin + "88.00 GiB. Use `memory_storage='disk,bf16'` (88.00 GiB)."
    with pytest.raises(InputError) as error:
        TeacherMemory(2**40, 2)
    assert str(error.value).endswith("Use fewer examples, or a machine with more memory or disk.")


def test_tables_that_fit_divided(monkeypatch):
    monkeypatch.setattr(TableStorage, "free_bytes", property(lambda storage: 2**30 * (storage._place == "cpu")))
    monkeypatch.setattr(storage_module, "num_processes", lambda: 64)
    with pytest.raises(InputError, match=r"Use `memory_storage='sharded'` \(0.94 GiB\), where the method can\."):
        TeacherMemory(2**30, 2)


def test_processes_of_a_machine_share_what_is_free(monkeypatch, tmp_path):
    for text in ("cpu", "disk"):
        storage = TableStorage.parse(text, tmp_path)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        alone = storage.free_bytes
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert storage.free_bytes == pytest.approx(alone / 4, rel=0.2)


def test_what_a_container_allows_is_what_is_free(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(storage_module, "free_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"must fit into what is free on cpu, 0\.00 GiB"):
        TeacherMemory(100, 2)


def test_a_checkpoint_goes_on_in_another_place_but_not_with_another_precision(tmp_path):
    memory = TeacherMemory(4, 2, TableStorage.parse("bf16"))
    memory.stage(torch.arange(4), torch.randn(4, 2))
    memory.transition(1, True)
    state = memory.state_dict()
    again = TeacherMemory.from_state_dict(state, TableStorage.parse("disk,bf16", tmp_path))
    assert torch.equal(again.read(torch.arange(4))[0], memory.read(torch.arange(4))[0])
    for text, named in ((None, "fp32"), ("fp32", "fp32"), ("fp16", "fp16"), ("bf16,top-2", "bf16,top-2")):
        with pytest.raises(InputError) as error:
            TeacherMemory.from_state_dict(state, TableStorage.of(text, tmp_path))
        assert str(error.value) == (
            "`memory_storage` must have the precision that it had when the checkpoint was saved, bf16, got "
            f"{named}. Resume with the same, or start a new run."
        )


def test_repeats_are_averaged_before_they_are_rounded():
    memory = LatestMemory(1, 2, TableStorage.parse("bf16"))
    for _ in range(1000):
        memory.stage(torch.zeros(1, dtype=torch.int64), torch.tensor([[0.7, 3e4]]))
    memory.transition(1)
    torch.testing.assert_close(memory.latest, torch.tensor([[0.7, 3e4]]).bfloat16().float())


def test_double_precision_stays_so_in_a_rounded_memory():
    memory = TeacherMemory(2, 2, TableStorage.parse("bf16"), torch.float64)
    again = TeacherMemory.from_state_dict(memory.state_dict(), TableStorage.parse("bf16"))
    indices = torch.arange(2)
    assert memory.read(indices)[0].dtype == again.read(indices)[0].dtype == torch.float64
    double = TeacherMemory(2, 2, dtype=torch.float64).state_dict()
    with pytest.raises(InputError, match=r"was saved, torch\.float64, got bf16"):
        TeacherMemory.from_state_dict(double, TableStorage.parse("bf16"))


# ---- The largest probabilities only ----


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("num_labels", [30, 40_000])  # as signed whole numbers of 16 bits, half of them are negative
def test_the_largest_probabilities_are_kept_and_the_others_share_the_rest(precision, num_labels):
    generator = torch.Generator().manual_seed(2)
    logits = 4 * torch.randn(6, num_labels, generator=generator)
    logits[1, 3:7] = -torch.inf
    memory = LatestMemory(6, num_labels, TableStorage.parse(f"{precision},top-5"))
    memory.stage(torch.arange(6), logits)
    memory.transition(1)
    rows, written = memory.read(torch.tensor([4, 1, 0, 5, 2, 3]))
    assert written.all()
    expected = logits[[4, 1, 0, 5, 2, 3]].log_softmax(-1)
    top, labels = expected.topk(5, dim=-1)
    tolerance = {"fp32": 1e-5, "bf16": 2**-7}[precision]
    torch.testing.assert_close(rows[0].gather(1, labels), top, rtol=tolerance, atol=tolerance)
    rest = expected.exp().scatter(1, labels, 0.0).sum(1) / (num_labels - 5)
    others = rows[0].scatter(1, labels, -torch.inf).exp()
    torch.testing.assert_close(others.amax(1), rest, rtol=16 * tolerance, atol=0)
    torch.testing.assert_close(rows[0].exp().sum(1), torch.ones(6), rtol=16 * tolerance, atol=0)


def test_what_a_divergence_changes_is_bounded():
    """By the student's probability of the others times the largest ratio of their probability to an even share."""
    generator = torch.Generator().manual_seed(3)
    teacher, student = 3 * torch.randn(2, 50, 64, generator=generator, dtype=torch.float64)
    memory = LatestMemory(50, 64, TableStorage.parse("top-8"), torch.float64)
    memory.stage(torch.arange(50), teacher)
    memory.transition(1)
    z, kept = teacher.log_softmax(-1), memory.read(torch.arange(50))[0][0]
    difference = (kl_student_teacher(student, z) - kl_student_teacher(student, kept)).abs()
    is_other = torch.ones(50, 64, dtype=torch.bool).scatter(1, z.topk(8, dim=-1).indices, False)
    largest = ((z - kept).abs() * is_other).amax(1)
    bound = (student.softmax(-1) * is_other).sum(1) * largest
    assert (difference <= bound + 1e-9).all()
    assert (difference > 0.1 * bound).any()


def test_the_largest_probabilities_where_they_make_no_sense(make_args):
    with pytest.raises(InputError, match="with top-4 needs more than 10 labels, or it saves nothing, got 10"):
        TeacherMemory(3, 10, TableStorage.parse("top-4"))
    with pytest.raises(InputError, match=r"numbers of 16 bits takes at most 65,536 labels, got 70,000\."):
        TeacherMemory(3, 70_000, TableStorage.parse("bf16,top-4"))
    with pytest.raises(InputError, match="must keep all labels for a moving average"):
        MovingAverageMemory(3, 30, TableStorage.parse("top-4"))
    trainer = trained(make_args, "top-4", teacher="sat")
    with pytest.raises(
        InputError, match="needs a method that remembers logits, and single-label classification, got SAT"
    ):
        trainer.train()
    trainer = LSTSDTrainer(
        model=make_model(num_labels=6),
        args=make_args(num_train_epochs=3),
        train_dataset=make_data(MULTI, num_labels=6),
        teacher=SnapshotDistillationConfig(cycle_epochs=1, store_predictions=True),
        memory_storage="top-1",
    )
    with pytest.raises(InputError, match="got SnapshotDistillation for multi_label_classification"):
        trainer.train()


def trained(make_args, storage, teacher=CONFIG, **options):
    return LSTSDTrainer(
        model=make_model(),
        args=make_args(num_train_epochs=4, learning_rate=1e-2, **options),
        train_dataset=make_examples(14),
        teacher=teacher,
        memory_storage=storage,
    )


def test_training_with_tables_on_disk_and_rounded(make_args):
    models = {}
    for storage in (None, "disk", "bf16", TableStorage(dtype=torch.bfloat16)):
        trainer = trained(make_args, storage)
        trainer.train()
        assert trainer.teacher.memory.coverage == 1.0
        models[str(storage)] = trainer.model
    assert_same_weights(models["None"], models["disk"])
    pairs = zip(models["bf16"].parameters(), models["None"].parameters(), strict=True)
    difference = max(float((one - other).detach().abs().max()) for one, other in pairs)
    assert 0 < difference < 1e-2
    assert_same_weights(models["bf16"], models[str(TableStorage(dtype=torch.bfloat16))])


def test_a_resumed_run_is_the_uninterrupted_one(make_args, tmp_path):
    whole = trained(make_args, "disk,bf16")
    whole.train()
    first = trained(make_args, "disk,bf16", save_strategy="steps", save_steps=7, output_dir=str(tmp_path / "run"))
    first.train()
    again = trained(make_args, "cpu,bf16", output_dir=str(tmp_path / "run"))
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-7"))
    assert_same_weights(whole.model, again.model)
