"""Two and three gloo processes under torchrun, beside one."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from lstsd_hf import METHODS, LSTSDConfig
from lstsd_hf.errors import InputError
from tests.distributed.script import SHARDING, WITHIN_AN_EPOCH, same_global_batch, train
from tests.helpers import ROOT, active, assert_same_weights, make_examples, make_model


def launch(folder, *launcher, script="tests.distributed.script", other=()):
    folder.mkdir()
    command = [sys.executable, *launcher, "-m", script, str(folder), *map(str, other)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr[-4000:]
    return [torch.load(path, weights_only=False) for path in sorted(folder.glob("rank*.pt"))]


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def several_processes(request, tmp_path_factory, one_process):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(request.param))
    ranks = launch(tmp_path_factory.mktemp("several") / "run", *launcher, other=[one_process["folder"]])
    assert len(ranks) == request.param
    return ranks


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("one") / "run")[0]


TABLES = ("rows", "written", "staged", "counts")


def same(first, second):
    return torch.equal(first, second) if torch.is_tensor(first) else first == second


@pytest.mark.parametrize("training", ["trained", "frozen", "rounded"])
def test_all_ranks_end_with_the_same_complete_tables(several_processes, training):
    first, *others = (rank[training] for rank in several_processes)
    for other in others:
        for name in TABLES:
            assert torch.equal(first[name], other[name]), name
        assert first["epoch"] == other["epoch"] == 6
        assert first["distilled_steps"] == other["distilled_steps"] == (0 if training == "frozen" else 8)
        assert_same_weights(first["weights"], other["weights"])
    assert first["written"].all()


def test_rounded_tables_on_disk_go_on_where_they_were(several_processes, one_process):
    for rank in (*several_processes, one_process):
        whole, again = rank["rounded"], rank["rounded again"]
        assert whole["rows"].dtype == torch.bfloat16
        for name in TABLES:
            assert torch.equal(whole[name], again[name]), name
        assert_same_weights(whole["weights"], again["weights"])
        assert not torch.equal(whole["rows"].float(), rank["trained"]["rows"])


def test_several_processes_merge_the_largest_probabilities(several_processes, one_process):
    expected = one_process["largest"]
    assert expected["rows"].exp().sum(-1).min() > 0.9
    for rank in several_processes:
        for name, value in expected.items():
            assert torch.equal(rank["largest"][name], value), name


def test_the_largest_probabilities_go_on_on_the_process_that_drew_them(several_processes):
    for rank in several_processes:
        assert_same_weights(rank["largest whole"], rank["largest again"])


def test_a_process_whose_rows_all_take_no_part_records_with_the_others(several_processes):
    """All processes must take part in a merge."""
    for rank in several_processes:
        is_there = ~np.isnan(rank["left out"][..., 0])
        assert is_there.any(axis=1).all()
        assert not is_there.all()
        np.testing.assert_array_equal(rank["left out"], several_processes[0]["left out"])


def test_several_processes_record_what_one_records(several_processes, one_process):
    first, alone = several_processes[0]["recorded"], one_process["recorded"]
    assert not np.isnan(first.log_probs).any()
    np.testing.assert_allclose(first.log_probs, alone.log_probs, rtol=2e-3, atol=1e-4)
    assert first.given.tolist() == alone.given.tolist() == [row["labels"] for row in make_examples(13)]
    assert first.texts == alone.texts
    for rank in several_processes:
        np.testing.assert_array_equal(rank["recorded"].log_probs, first.log_probs)


def test_several_processes_judge_labels_as_one_does(several_processes, one_process):
    alone = one_process["judged"].log_probs
    assert not np.isnan(alone).any()
    for rank in several_processes:
        np.testing.assert_allclose(rank["judged"].log_probs, alone, rtol=2e-3, atol=1e-4)


def test_several_processes_store_what_one_stores(several_processes, one_process):
    """With a frozen model without dropout every process must store the same output for an example."""
    alone = one_process["frozen"]
    for name in TABLES:
        torch.testing.assert_close(several_processes[0]["frozen"][name], alone[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SHARDING)
def test_a_row_is_the_mean_of_what_all_processes_saw(several_processes, name):
    """Repeated examples (a refilled epoch) are averaged, examples left out keep what they had."""
    ranks = [rank[f"sharding-{name}"] for rank in several_processes]
    history: dict[int, dict[int, list]] = {}
    for rank in ranks:
        for epoch, indices, logits in rank["seen"]:
            for index, row in zip(indices.tolist(), logits, strict=True):
                history.setdefault(epoch, {}).setdefault(index, []).append(row)
    expected = {}
    for epoch in sorted(history):
        expected |= {index: torch.stack(rows).mean(dim=0) for index, rows in history[epoch].items()}
    draws = [sum(map(len, seen.values())) for seen in history.values()]
    for rank in ranks:
        assert rank["written"].tolist() == [index in expected for index in range(13)]
        for index, row in expected.items():
            torch.testing.assert_close(rank["rows"][index], row, rtol=1e-6, atol=1e-6)
        assert torch.equal(rank["rows"], ranks[0]["rows"])
        assert_same_weights(rank["weights"], ranks[0]["weights"])
        assert rank["logs"][-1]["loss_short"] > 0
    # The epochs are what their names say.
    assert all(count < 13 for count in draws) if name == "drop_last" else all(count > 13 for count in draws)


@pytest.mark.parametrize("name", METHODS)
def test_without_effect_it_is_stock_trainer_on_as_many_processes(several_processes, name):
    for rank in several_processes:
        stock, ours = rank[f"stock-{name}"]
        assert_same_weights(stock, ours)


@pytest.mark.parametrize(
    "run", [*(f"worlds-{name}" for name in METHODS), "tokens-lstsd", "tokens-sat", "tokens-r_drop"]
)
def test_one_process_equals_several(several_processes, one_process, run):
    """The same global batches, without dropout: weights and the teacher's tensors agree."""
    alone = one_process[run]
    for rank in several_processes:
        several = rank[run]
        assert_same_weights(alone["weights"], several["weights"], rtol=1e-5, atol=1e-5)
        if run != "worlds-dlb":  # it remembers the batches of each process
            assert_same_weights(alone["teacher"], several["teacher"], rtol=1e-5, atol=1e-5)
        assert several["loss"] == pytest.approx(alone["loss"], rel=1e-4)


def test_several_processes_see_that_the_next_token_is_predicted(several_processes, one_process):
    """Also where only the loss tells, behind DistributedDataParallel's own node of the graph."""
    assert one_process["shifted"]
    assert all(rank["shifted"] for rank in several_processes)


def test_several_processes_crop_pictures_as_one_does(several_processes, one_process):
    for rank in several_processes:
        for part in ("weights", "teacher"):
            assert_same_weights(one_process["pictures"][part], rank["pictures"][part], rtol=1e-5, atol=1e-5)


def test_all_processes_find_the_same_anchor(several_processes, one_process):
    anchor = one_process["worlds-anchored"]["anchor_epoch"]
    assert anchor is not None
    assert {rank["worlds-anchored"]["anchor_epoch"] for rank in several_processes} == {anchor}


def test_logs_are_the_mean_over_processes(several_processes):
    for entry in several_processes[0]["trained"]["logs"]:
        parts = entry["loss_base"] + 2.0 * entry.get("loss_short", 0.0) + 1.0 * entry.get("loss_long", 0.0)
        assert entry["loss"] == pytest.approx(parts, rel=1e-4)
    assert several_processes[0]["trained"]["logs"][-1]["loss_short"] > 0


@pytest.mark.parametrize("step", [5, 8])  # within an epoch, and an epoch's last step
def test_resumed_equals_uninterrupted(several_processes, step):
    for rank in several_processes:
        whole, resumed = rank["trained"], rank["resumed"][step]
        assert_same_weights(whole["weights"], resumed["weights"])
        for name in TABLES:
            assert torch.equal(whole[name], resumed[name]), name
        assert whole["distilled_steps"] == resumed["distilled_steps"]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("trainer_class", ["LSTSDTrainer", "PassesOn"])
def test_terms_have_the_scale_of_the_base_loss(several_processes, trainer_class, accumulation, smoothing):
    for rank in several_processes:
        alone, doubled = rank[f"gradients-{accumulation}-{smoothing}-{trainer_class}"]
        assert len(alone) == len(doubled) > 0
        for first, second in zip(alone, doubled, strict=True):
            assert max(gradient.abs().max() for gradient in first.values()) > 1e-3
            for name, gradient in first.items():
                torch.testing.assert_close(second[name], 2 * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_alike_on_all_ranks_and_resumes(several_processes, name):
    ranks = [rank[f"method-{name}"] for rank in several_processes]
    for runs in zip(*ranks, strict=True):
        for other in runs[1:]:
            assert_same_weights(runs[0]["weights"], other["weights"])
            assert runs[0]["distilled_steps"] == other["distilled_steps"]
            assert runs[0]["teacher"].keys() == other["teacher"].keys()
            assert all(same(value, other["teacher"][key]) for key, value in runs[0]["teacher"].items())
    for whole, *resumed in ranks:
        assert (whole["distilled_steps"] > 0) == METHODS[name]().build().needs_batches
        for run in resumed:
            assert_same_weights(whole["weights"], run["weights"])
            assert whole["distilled_steps"] == run["distilled_steps"]
            assert whole["scores"][-1]["eval_loss"] == run["scores"][-1]["eval_loss"]
            assert whole["scores"][-1]["eval_mean"] == run["scores"][-1]["eval_mean"]


def overlaps(drawn, accumulation=2):
    """Of each micro-batch: whether it begins with the second half of the same one a step before, in its epoch."""
    steps = {}
    for epoch, step, indices in drawn:
        steps.setdefault((epoch, step), []).append(indices)
    assert all(len(batches) <= accumulation for batches in steps.values())
    return [
        batch[: len(batch) // 2] == before[len(before) // 2 :]
        for (epoch, step), batches in steps.items()
        for batch, before in zip(batches, steps.get((epoch, step - 1), []), strict=False)
    ]


def test_groups_of_like_lengths_are_divided(several_processes):
    """Each example once in an epoch, by one of the processes, in an order of the epoch's own."""
    for epoch in range(3):
        batches = [batch for rank in several_processes for batch in rank["grouped"][epoch]]
        assert sorted(index for batch in batches for index in batch) == list(range(12))
    first, second, _ = several_processes[0]["grouped"]
    assert first != second


def test_overlapping_batches_overlap_on_each_process(several_processes, one_process):
    for results in (*several_processes, one_process):
        whole, *resumed = results["overlapping"]
        found = overlaps(whole["drawn"])
        assert all(found)
        assert len(found) >= 4  # of 4 epochs
        assert whole["steps"] > 0
        for run in resumed:
            assert_same_weights(whole["weights"], run["weights"])
            assert run["drawn"] == whole["drawn"][-len(run["drawn"]) :]
            assert whole["steps"] == run["steps"]
    ranks = [[batch for *_, batch in rank["overlapping"][0]["drawn"]] for rank in several_processes]
    # As long as the first order of the 26 examples lasts: half a batch for each of two micro-batches, then one each.
    whole_times = (26 - 4 * len(ranks)) // (2 * len(ranks))
    assert whole_times >= 2
    for same_time in list(zip(*ranks, strict=True))[:whole_times]:
        drawn = [index for batch in same_time for index in batch]
        assert len(drawn) == len(set(drawn))
    # Another epoch, other batches.
    assert len({tuple(batch) for batch in ranks[0]}) == len(ranks[0])


def test_several_processes_are_taught_by_what_teaches_one(several_processes, one_process):
    """Snapshots count as one model, whatever the number of processes: the names and shapes of all state agree."""
    for name in set(METHODS) - {"dlb"}:  # which remembers the batches of each process
        one, several = (item[f"method-{name}"][0]["teacher"] for item in (one_process, several_processes[0]))
        assert one.keys() == several.keys(), name
        for key, value in one.items():
            assert not torch.is_tensor(value) or value.shape == several[key].shape, (name, key)


@pytest.mark.parametrize("start", ["one", "several"])
def test_a_run_goes_on_with_the_same_batch_on_another_number_of_processes(several_processes, one_process, start):
    """From within an epoch, one process to several and back: it ends as if it had never moved."""
    whole = one_process["worlds-lstsd"]
    if start == "one":
        moved = [rank["from other"] for rank in several_processes]
    else:
        folder = several_processes[0]["folder"]
        checkpoint = folder / "worlds-lstsd" / f"checkpoint-{WITHIN_AN_EPOCH}"
        moved = [same_global_batch(folder / "alone", active(LSTSDConfig), str(checkpoint))]
    for run in moved:
        assert_same_weights(whole["weights"], run["weights"], rtol=1e-5, atol=1e-5)
        assert_same_weights(whole["teacher"], run["teacher"], rtol=1e-5, atol=1e-5)
        assert run["loss"] == pytest.approx(whole["loss"], rel=1e-4)


def test_another_global_batch_is_refused(several_processes):
    folder, batch = several_processes[0]["folder"], 4 * len(several_processes)
    with pytest.raises(
        InputError, match=f"`global_batch_size` must be what it was when .*: it was {batch}, now it is 4"
    ):
        train(folder / "other", make_model(), resume=str(folder / "run" / "checkpoint-5"))
