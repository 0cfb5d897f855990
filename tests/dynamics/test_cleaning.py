"""What is done with suspects."""

import dataclasses

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

from lstsd_hf.dynamics import drop_suspects, relabel, suspects, to_cleanlab
from lstsd_hf.errors import InputError
from lstsd_hf.images import Images
from tests.helpers import HAND, history_of

pytestmark = pytest.mark.filterwarnings("ignore::lstsd_hf.dynamics.InSampleWarning")
SIX = history_of([[0.9] * 4, [0.8] * 4, [0.3] * 4, [0.2] * 4, [0.1] * 4, [0.95] * 4], [1, 1, 1, 0, 0, 0])


def datasets():
    rows = [{"text": f"text {row}", "label": label} for row, label in enumerate(SIX.given.tolist())]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    return {"list": rows, "datasets": Dataset.from_list(rows, features=features)}


@pytest.mark.parametrize("kind", ["list", "datasets"])
def test_suspects_are_dropped_or_relabelled(kind):
    dataset = datasets()[kind]
    assert suspects(SIX)["index"].tolist() == [5, 2]
    kept, dropped = drop_suspects(dataset, SIX)
    assert [row["text"] for row in kept] == ["text 0", "text 1", "text 3", "text 4"]
    assert dropped[["index", "action"]].values.tolist() == [[5, "dropped"], [2, "dropped"]]
    changed, record = relabel(dataset, SIX, count=3)
    assert [row["label"] for row in changed] == [1, 1, 0, 0, 0, 1]
    assert sorted(record["index"]) == [2, 5]  # the third suspect's label is believed
    assert [row["label"] for row in dataset] == SIX.given.tolist()
    if kind == "datasets":
        assert changed.features == dataset.features


def test_suspects_of_other_data_are_refused():
    with pytest.raises(InputError, match="must be the training set of the recorded run, with 6 examples, got 5"):
        drop_suspects(datasets()["list"][:5], SIX)
    with pytest.raises(InputError, match="`count` must be from 0 to 6, the examples with a label, got 7"):
        suspects(SIX, 7)
    with pytest.raises(InputError, match="must have a column label or labels or label_ids, got text"):
        relabel([{"text": ""}] * 6, SIX)
    with pytest.raises(InputError, match="Every example must have a label and a prediction, got 2 without"):
        to_cleanlab(HAND)


@pytest.mark.parametrize("kind", ["list", "datasets"])
def test_the_examples_of_the_run_in_another_order_are_refused(kind):
    dataset = datasets()[kind]
    recorded = dataclasses.replace(SIX, texts=[row["text"] for row in dataset])
    relabel(relabel(dataset, recorded, count=1)[0], recorded, count=2)
    # Texts may have been recorded in another form.
    drop_suspects(dataset, dataclasses.replace(SIX, texts=[row["text"].upper() for row in dataset]), count=2)
    shuffled = dataset[::-1] if kind == "list" else dataset.shuffle(seed=1)
    for change in (drop_suspects, relabel):
        with pytest.raises(InputError, match="the same texts in another order"):
            change(shuffled, recorded, count=2)
    with pytest.raises(InputError, match=r"`count` must be a whole number of examples, or None, got 0\.2"):
        drop_suspects(dataset, recorded, count=0.2)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, np.int64], ids=["tensor", "array", "numpy-number"])
def test_a_new_label_is_of_the_kind_of_the_old_one(kind):
    dataset = [{"text": f"text {row}", "label": kind(int(label))} for row, label in enumerate(SIX.given)]
    changed, _ = relabel(dataset, SIX, count=3)
    assert [int(row["label"]) for row in changed] == [1, 1, 0, 0, 0, 1]
    assert all(type(row["label"]) is type(dataset[0]["label"]) for row in changed)
    assert all(row["label"].dtype == dataset[0]["label"].dtype for row in changed)


@pytest.mark.parametrize("form", ["transform", "columns", "no label"])
def test_a_dataset_of_any_form_is_relabelled_and_keeps_it(form):
    dataset = datasets()["datasets"]
    if form == "transform":
        dataset = dataset.with_transform(lambda batch: {"input_ids": [[1]] * len(batch["label"]), "y": batch["label"]})
    elif form == "columns":
        dataset = dataset.with_format("numpy", columns=["text"])
    else:
        labels = [1, 1, 1, 0, None, 0]
        dataset = dataset.remove_columns("label").add_column("label", labels, feature=dataset.features["label"])
    recorded = dataclasses.replace(SIX, given=np.array([1, 1, 1, 0, -1, 0])) if form == "no label" else SIX
    changed, _ = relabel(dataset, recorded, count=3)
    assert changed.with_format(None)["label"][:4] == [1, 1, 0, 0]
    assert changed.with_format(None)["label"][4:] == [None if form == "no label" else 0, 1]
    assert changed[0].keys() == dataset[0].keys()
    assert changed.format["type"] == dataset.format["type"]


def test_pictures_are_not_relabelled():
    pictures = Images(np.zeros((6, 3, 4, 4), np.uint8), SIX.given, [0.5] * 3, [0.5] * 3)
    with pytest.raises(InputError, match=r"must be a `datasets\.Dataset` or a list of mappings, got Images"):
        relabel(pictures, SIX, count=3)
    assert len(drop_suspects(pictures, SIX, count=3)[0]) == 3
