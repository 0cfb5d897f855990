"""Tables divided over two and three processes say what whole ones say."""

import pytest
import torch

from tests.distributed.sharded_script import CASES
from tests.distributed.test_distributed import launch
from tests.helpers import assert_same_weights


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def ranks(request, tmp_path_factory):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(request.param))
    folder = tmp_path_factory.mktemp("sharded") / "run"
    return launch(folder, *launcher, script="tests.distributed.sharded_script")


@pytest.mark.parametrize("name", ["lstsd", "temporal_ensemble", *CASES])
def test_divided_tables_say_what_whole_ones_say(ranks, name):
    whole = ranks[0][name]["whole"]
    assert whole["distilled_steps"] > 0
    for number, rank in enumerate(ranks):
        found = rank[name]
        assert len(found) == (2 if name in CASES else 6)
        for place, run in found.items():
            is_divided = place.startswith("sharded")
            assert_same_weights(whole["weights"], run["weights"])
            for key in ("distilled_steps", "coverage", "epoch"):
                assert run[key] == whole[key], (place, key)
            for table, value in whole.items():
                if isinstance(value, torch.Tensor) and not (is_divided and number):
                    assert torch.equal(run[table], value), (place, table)
            # Of divided tables the first process of the machine has all in a checkpoint.
            assert len(run["counts"]) == (0 if is_divided and number else 13)
