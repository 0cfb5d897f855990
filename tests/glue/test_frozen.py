"""Training the top of an encoder from cached hidden states beside freezing the rest of it in an ordinary run."""

import copy
import time

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from lstsd_hf import LSTSDConfig, LSTSDTrainer
from lstsd_hf.errors import InputError
from lstsd_hf.glue.frozen import EncoderSplit, FrozenStates, collate_states, compute_states
from lstsd_hf.glue.models import resolve_model
from lstsd_hf.models import TextCNNConfig, TextCNNForSequenceClassification
from tests.helpers import assert_same_weights

SIZES = {"vocab_size": 60, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 32}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}
CPU = torch.device("cpu")


def bert():
    return BertForSequenceClassification(BertConfig(**SIZES, **NO_DROPOUT))


MODELS = {
    "bert": bert,
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES, **NO_DROPOUT)),
    "mpnet": lambda: MPNetForSequenceClassification(MPNetConfig(**SIZES, **NO_DROPOUT)),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=60, dim=16, n_heads=2, n_layers=4, hidden_dim=32, dropout=0.0, attention_dropout=0.0,
            seq_classif_dropout=0.0, initializer_range=0.3,
        )
    ),
}  # fmt: skip


def tokens(lengths, seed=0):
    generator = np.random.default_rng(seed)
    ids = [generator.integers(5, 60, size=length).tolist() for length in lengths]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})


@pytest.fixture(scope="module")
def pad():
    from transformers import AutoTokenizer

    return DataCollatorWithPadding(AutoTokenizer.from_pretrained(resolve_model("minilm")))


def train(make_args, model, data, collator):
    trainer = LSTSDTrainer(
        model=model,
        args=make_args(num_train_epochs=5, learning_rate=1e-2),
        train_dataset=data,
        data_collator=collator,
        teacher=LSTSDConfig(mini_generation_epochs=2),
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("trainable_layers", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_cached_states_equal_freezing(make_args, tmp_path, pad, name, trainable_layers):
    """With dropout off: the same weights and teachers as an ordinary run with the layers below frozen."""
    torch.manual_seed(0)
    ordinary = MODELS[name]().double()
    cached = copy.deepcopy(ordinary)
    labels = [0, 1] * 7
    rows = tokens([3, 5, 8, 2, 5, 5, 7, 4, 6, 3, 8, 2, 5, 4])
    EncoderSplit(ordinary, trainable_layers).freeze()
    before = copy.deepcopy(cached.state_dict())
    first = train(make_args, ordinary, rows.add_column("label", labels), pad)

    split = EncoderSplit(cached, trainable_layers)
    folder = compute_states(split, rows, pad, tmp_path / "cache", CPU, pooled=False, dtype=np.float64)
    split.freeze()
    with split.top():
        second = train(make_args, cached, FrozenStates(folder, labels, pooled=False), collate_states)
    assert_same_weights(ordinary, cached, rtol=0, atol=1e-10)
    changed = [name for name, value in cached.state_dict().items() if not torch.equal(value, before[name])]
    assert any("classifier" in name for name in changed)
    assert not any("embedding" in name or "layer.0." in name for name in changed)
    torch.testing.assert_close(
        first.teacher.memory.short_term_logits, second.teacher.memory.short_term_logits, rtol=0, atol=1e-10
    )


def test_equal_bit_for_bit_where_the_shapes_are_equal(make_args, tmp_path, pad, monkeypatch):
    """In fp32, with batches of one length: the arithmetic is then the same, so is the result."""
    monkeypatch.setattr("lstsd_hf.glue.frozen.BATCH_SIZE", 4)
    torch.manual_seed(0)
    ordinary = bert()
    cached = copy.deepcopy(ordinary)
    rows, labels = tokens([6] * 16), [0, 1] * 8
    EncoderSplit(ordinary, 2).freeze()
    train(make_args, ordinary, rows.add_column("label", labels), pad)
    split = EncoderSplit(cached, 2)
    folder = compute_states(split, rows, pad, tmp_path / "cache", CPU, pooled=False)
    split.freeze()
    with split.top():
        train(make_args, cached, FrozenStates(folder, labels, pooled=False), collate_states)
    assert_same_weights(ordinary, cached)


def test_states_are_those_of_the_model_itself(tmp_path, pad):
    torch.manual_seed(0)
    model = bert().eval()
    rows = tokens([3, 7, 5])
    folder = compute_states(EncoderSplit(model, 1), rows, pad, tmp_path, CPU, pooled=False)
    states = FrozenStates(folder, None, pooled=False)
    pooled = FrozenStates(
        compute_states(EncoderSplit(model, 0), rows, pad, tmp_path, CPU, pooled=True), [1, 0, 1], pooled=True
    )
    assert len(states) == len(pooled) == 3
    for index, row in enumerate(rows):
        with torch.no_grad():
            hidden = model(torch.tensor([row["input_ids"]]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(states[index]["inputs_embeds"], hidden[-2][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(pooled[index]["features"], hidden[-1][0].mean(dim=0), rtol=0, atol=1e-5)
    assert pooled[2]["labels"] == 1
    with pytest.raises(IndexError):
        states[3]


def test_the_cache_is_reused_and_told_apart(tmp_path, pad, monkeypatch):
    torch.manual_seed(0)
    model = bert()
    rows = tokens([3, 7, 5])

    def folder(model=model, rows=rows, layers=1, pooled=False):
        return compute_states(EncoderSplit(model, layers), rows, pad, tmp_path, CPU, pooled=pooled)

    first = folder()
    written = (first / "states.npy").stat().st_mtime_ns
    time.sleep(0.01)
    # Neither head nor top layer matter.
    torch.nn.init.ones_(model.classifier.weight)
    torch.nn.init.ones_(model.bert.encoder.layer[3].output.dense.weight)
    assert folder() == first
    assert (first / "states.npy").stat().st_mtime_ns == written
    others = {folder(rows=tokens([3, 7, 5], seed=1)), folder(layers=2), folder(layers=0, pooled=True)}
    torch.nn.init.ones_(model.bert.encoder.layer[0].output.dense.bias)
    others.add(folder())
    assert len(others | {first}) == 5
    # What the config makes of the same weights.
    model.config.layer_norm_eps = 1e-5
    others.add(folder())
    model.config.hidden_dropout_prob = 0.3  # which does nothing here
    others.add(folder())
    assert len(others | {first}) == 6
    # An interrupted computation leaves nothing that looks finished.
    monkeypatch.setattr("lstsd_hf.glue.frozen.np.save", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        folder(rows=tokens([4, 4]))
    assert len(list(tmp_path.iterdir())) == 6


def test_an_encoder_that_is_more_than_a_stack_is_refused():
    config = ElectraConfig(**SIZES, embedding_size=8)
    model = ElectraForSequenceClassification(config)
    batch = {"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with pytest.raises(InputError, match="ElectraForSequenceClassification predicts otherwise when it is cut"):
        EncoderSplit(model, 2).check(model, batch)
    assert len(model.electra.encoder.layer) == 4  # whole again
    plain = bert().train()
    EncoderSplit(plain, 2).check(plain, batch)
    assert plain.training


def test_unsuitable_models_are_refused():
    with pytest.raises(InputError) as error:
        EncoderSplit(TextCNNForSequenceClassification(TextCNNConfig(vocab_size=10)), 1)
    assert str(error.value) == (
        "`trainable_layers` needs an encoder with `embeddings` and a list of layers, such as BERT, RoBERTa, MPNet or "
        "DistilBERT, got TextCNNForSequenceClassification. Leave it out."
    )
    with pytest.raises(InputError) as error:
        EncoderSplit(bert(), 4)
    assert str(error.value) == (
        "`trainable_layers` must be less than the encoder's 4 layers, got 4. Leave it out to train all of them."
    )
