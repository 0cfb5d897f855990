"""An epoch's file, written and read."""

import numpy as np
import pytest
import torch

from lstsd_hf.dynamics import History
from lstsd_hf.dynamics.files import EpochTable, read_epoch, write_epoch
from lstsd_hf.errors import InputError


@pytest.mark.parametrize("num_labels", [2, 64, 100])
def test_an_epoch_comes_back_as_it_was(tmp_path, num_labels):
    random = np.random.default_rng(0)
    log_probs = torch.tensor(random.normal(size=(9, num_labels)) * 3).log_softmax(-1).float().numpy()
    log_probs[4] = np.nan
    given = np.array([0, 1, num_labels - 1, -1, 1, 0, 1, 0, 1])
    write_epoch(tmp_path / "epoch-0001.parquet", EpochTable(log_probs, given))
    found = read_epoch(tmp_path / "epoch-0001.parquet")
    assert found.given.tolist() == [0, 1, num_labels - 1, -1, -1, 0, 1, 0, 1]
    assert np.isnan(found.log_probs[4]).all()
    seen = [row for row in range(9) if row != 4]
    labelled = [row for row in seen if given[row] >= 0]
    np.testing.assert_allclose(
        found.log_probs[labelled, given[labelled]], log_probs[labelled, given[labelled]], rtol=2e-3
    )
    assert (found.log_probs[seen].argmax(1) == log_probs[seen].argmax(1)).all()
    np.testing.assert_allclose(np.exp(found.log_probs[seen]).sum(1), 1, atol=0.05)
    if num_labels <= 64:
        np.testing.assert_allclose(found.log_probs[seen], log_probs[seen], rtol=1e-3)


def test_an_epoch_that_saw_nobody(tmp_path):
    """As one whose outputs were not finite."""
    write_epoch(tmp_path / "epoch-0001.parquet", EpochTable(np.full((3, 2), np.nan, np.float32), np.full(3, -1)))
    assert np.isnan(read_epoch(tmp_path / "epoch-0001.parquet").log_probs).all()


def test_folders_that_are_none(tmp_path):
    with pytest.raises(
        InputError, match=r"must have the files of all epochs .* found none\. Train with `record_dynamics"
    ):
        History.read(tmp_path)
    (tmp_path / "epoch-0001.parquet").write_text("no such file")
    with pytest.raises(InputError, match="must be an epoch of recorded dynamics, and cannot be read"):
        History.read(tmp_path)


def test_damaged_texts(tmp_path):
    write_epoch(tmp_path / "epoch-0001.parquet", EpochTable(np.zeros((3, 2), np.float32), np.zeros(3, int)))
    (tmp_path / "examples.parquet").write_text("no such file")
    with pytest.raises(InputError, match="must have the texts of recorded dynamics, and cannot be read"):
        History.read(tmp_path)
