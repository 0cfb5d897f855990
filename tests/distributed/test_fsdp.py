"""Sharded weights: FSDP on two gloo processes."""

import pytest

from lstsd_hf import METHODS
from tests.distributed.script import same_global_batch
from tests.distributed.test_distributed import launch, same
from tests.helpers import active, assert_same_weights

KEEPS_PREDICTIONS = [name for name in METHODS if not METHODS[name]().build().runs_model]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    found = launch(
        tmp_path_factory.mktemp("fsdp") / "run",
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        script="tests.distributed.fsdp_script",
    )
    assert len(found) == 2
    assert all(rank["is_sharded"] for rank in found)
    return found


@pytest.mark.parametrize("name", KEEPS_PREDICTIONS)
def test_without_effect_it_is_stock_trainer(ranks, name):
    for rank in ranks:
        assert_same_weights(*rank[f"stock-{name}"])


@pytest.mark.parametrize("name", KEEPS_PREDICTIONS)
def test_one_process_equals_two_that_shard(ranks, name, tmp_path):
    alone = same_global_batch(tmp_path, active(METHODS[name]))
    for rank in ranks:
        sharded = rank[f"worlds-{name}"]
        assert_same_weights(alone["weights"], sharded["weights"], rtol=1e-5, atol=1e-5)
        assert_same_weights(alone["teacher"], sharded["teacher"], rtol=1e-5, atol=1e-5)
        assert sharded["loss"] == pytest.approx(alone["loss"], rel=1e-4)


@pytest.mark.parametrize("name", KEEPS_PREDICTIONS)
def test_both_end_alike_and_as_without_an_interruption(ranks, name):
    whole = ranks[0][f"method-{name}"][0]
    assert (whole["distilled_steps"] > 0) == METHODS[name]().build().needs_batches
    for rank in ranks:
        for run in rank[f"method-{name}"]:
            assert_same_weights(whole["weights"], run["weights"])
            assert whole["distilled_steps"] == run["distilled_steps"]
            assert whole["teacher"].keys() == run["teacher"].keys()
            assert all(same(value, run["teacher"][key]) for key, value in whole["teacher"].items())
            assert whole["scores"][-1]["eval_loss"] == run["scores"][-1]["eval_loss"]


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(KEEPS_PREDICTIONS)))
def test_what_runs_the_model_is_refused(ranks, name):
    for rank in ranks:
        assert "must have the model's whole weights on every process, got FSDP, which" in rank[f"refused-{name}"]
