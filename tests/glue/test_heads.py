"""Models from folders: an output layer is kept by the names of its labels, and the model's limits are respected."""

import json
import logging
import random

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from lstsd_hf.errors import InputError
from lstsd_hf.glue import cli
from lstsd_hf.glue.models import load_model, train_word_tokenizer
from lstsd_hf.glue.tasks import GlueTask, get_task
from lstsd_hf.position_limit import position_limit

TEXTS = ["a b c d e f g h", "a b c d e f g h i j", "i j k"] * 2
TOKENIZER = train_word_tokenizer(TEXTS)
SST2 = get_task("sst2")
NLI = GlueTask(
    name="custom",
    folder="custom",
    text_columns=("premise", "hypothesis"),
    tsv_columns=(),
    label_names=("contradiction", "entailment", "neutral"),
)


def tiny_bart(**more):
    sizes = dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 16)
    counts = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return BartConfig(**sizes, **counts, max_position_embeddings=64, **more)


def words(text):
    return text.split()


def save(folder, model_class=BertForSequenceClassification, config=None, tokenizer=TOKENIZER, **settings):
    torch.manual_seed(1)
    config = config or BertConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        pad_token_id=0,
    )
    for name, value in settings.items():
        setattr(config, name, value)
    model = model_class(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


def named(*names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def logits(model):
    tokens = TOKENIZER(["a b c", "d e"], return_tensors="pt", padding=True)
    with torch.no_grad():
        return model.eval()(tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits


# The task's labels are negative, positive; what the folder says, and which of its outputs become which.
NAMES = [
    (named("negative", "positive"), [0, 1]),
    (named("NEGATIVE", "POSITIVE"), [0, 1]),
    (named("POSITIVE", "NEGATIVE"), [1, 0]),
    (named("Positive", "Negative"), [1, 0]),
    (named(" positive ", "negative"), [1, 0]),
    (named("LABEL_0", "LABEL_1"), None),
    (named("LABEL_1", "LABEL_0"), None),
    (named("0", "1"), None),
    (named("1", "0"), None),
    (named("neg", "pos"), None),
    (named("positive", "neutral"), None),
    (named("entailment", "not_entailment"), None),
    (named("positive", "positive"), None),
    (named("negative", "positive", "neutral"), None),
    (named("positive"), None),
    ({}, None),
    # The two maps contradict each other.
    ({"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 1, "positive": 0}}, None),
    ({"id2label": {0: "positive", 1: "negative"}, "label2id": {"POSITIVE": 0, "NEGATIVE": 1}}, [1, 0]),
    ({**named("positive", "negative"), "problem_type": "regression"}, None),
    ({**named("positive", "negative"), "problem_type": "single_label_classification"}, [1, 0]),
]


@pytest.mark.parametrize(("settings_", "order"), NAMES, ids=lambda value: str(value)[:60])
def test_an_output_layer_is_kept_by_name_only(tmp_path, caplog, settings_, order):
    caplog.set_level(logging.INFO, logger="lstsd_hf")
    saved = save(tmp_path, **settings_)
    torch.manual_seed(2)
    model, _ = load_model(str(tmp_path), SST2)
    told = [record.message for record in caplog.records if record.name.startswith("lstsd_hf")]
    assert model.config.id2label == {0: "negative", 1: "positive"}
    if order is None:
        assert model.classifier.weight.shape == (2, 16)
        assert not any(torch.equal(row, old) for row in model.classifier.weight for old in saved.classifier.weight)
        torch.manual_seed(3)
        other, _ = load_model(str(tmp_path), SST2)
        assert not torch.equal(other.classifier.weight, model.classifier.weight)
        assert model.classifier.weight.std() < 0.1  # as a new layer begins
    else:
        torch.testing.assert_close(logits(model), logits(saved)[:, order])
    is_silent = order == [0, 1] or (order is None and saved.config.num_labels != 2 and not settings_)
    assert len(told) == (0 if is_silent else 1)


@given(st.permutations(range(3)), st.sampled_from([str.upper, str.title, str.lower, lambda name: f" {name}"]))
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_three_labels_in_any_order_and_spelling(tmp_path_factory, order, spell):
    folder = tmp_path_factory.mktemp("nli")
    saved = save(folder, **named(*(spell(NLI.label_names[index]) for index in order)))
    model, _ = load_model(str(folder), NLI)
    torch.testing.assert_close(logits(model), logits(saved)[:, [order.index(label) for label in range(3)]])


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (
            DistilBertForSequenceClassification,
            DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16, vocab_size=40),
        ),
        (
            RobertaForSequenceClassification,
            RobertaConfig(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=40
            ),
        ),
    ],
    ids=["distilbert", "roberta"],
)
def test_heads_of_several_layers_are_put_in_order_too(tmp_path, model_class, config):
    saved = save(tmp_path, model_class, config, **named("POSITIVE", "NEGATIVE"))
    model, _ = load_model(str(tmp_path), SST2)
    torch.testing.assert_close(logits(model), logits(saved)[:, [1, 0]])


def test_an_encoder_without_a_head_gets_one_without_a_word(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="lstsd_hf")
    save(tmp_path, BertModel)
    load_model(str(tmp_path), SST2)
    assert not [record.message for record in caplog.records if record.name.startswith("lstsd_hf")]


def test_a_fine_tuned_folder_scores_as_in_a_pipeline(tmp_path, monkeypatch):
    """Accuracy 1.0 before and after training at a rate of nearly 0, and the saved names are those of its outputs."""
    monkeypatch.chdir(tmp_path)
    rows = [{"sentence": f"{word} {word}", "label": index % 2} for index, word in enumerate("abcdefgh")]
    saved = save(tmp_path / "model", **named("POSITIVE", "NEGATIVE"))
    guesses = saved(**TOKENIZER([row["sentence"] for row in rows], return_tensors="pt")).logits.argmax(-1).tolist()
    for split in ("train", "dev"):
        lines = [f"{row['sentence']}\t{1 - guess}" for row, guess in zip(rows, guesses, strict=True)]
        # Both labels must occur.
        path = tmp_path / "glue" / "SST-2" / f"{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    cli.main(
        words(
            "--task sst2 --data glue --method vanilla --model_name_or_path model --learning_rate 1e-9 "
            "--num_train_epochs 1 --use_cpu True --save_strategy no --report_to none --output_dir out"
        )
    )
    assert json.loads((tmp_path / "out" / "results.json").read_text())["last_epoch"]["eval_accuracy"] == 1.0
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    names = [again.config.id2label[index] for index in logits_of_rows(again, rows).argmax(-1).tolist()]
    assert names == [saved.config.id2label[guess].lower() for guess in guesses]


def logits_of_rows(model, rows):
    with torch.no_grad():
        return model.eval()(**TOKENIZER([row["sentence"] for row in rows], return_tensors="pt")).logits


# ---- The model's limits ----


def test_inputs_are_cut_to_the_models_positions(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="lstsd_hf")
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model")
    rows = [
        {"text": " ".join(random.Random(index).choices("abcdefgh", k=90)), "label": index % 2} for index in range(8)
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli.main(
        words(
            "--train_file own.jsonl --validation_file own.jsonl --method lstsd "
            "--lstsd.mini_generation_epochs 1 --model_name_or_path model --num_train_epochs 2 --use_cpu "
            "True --save_strategy no --report_to none"
        )
    )
    assert "Inputs are cut off at 32 tokens: model has no positions for more." in caplog.messages


@pytest.mark.parametrize(
    ("model_class", "config", "expected"),
    [
        (BertForSequenceClassification, BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2), 512),
        (
            RobertaForSequenceClassification,
            RobertaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=514),
            512,
        ),
        (
            BartForSequenceClassification,
            tiny_bart(),
            64,
        ),
        (T5ForSequenceClassification, T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2), None),
    ],
    ids=["bert", "roberta", "bart", "t5"],
)  # fmt: skip
def test_position_limits(model_class, config, expected):
    assert position_limit(model_class(config)) == expected


def test_a_tokenizer_that_knows_more_than_the_model_is_refused(tmp_path):
    tokenizer = train_word_tokenizer(TEXTS)
    tokenizer.add_tokens(["<extra>"])
    save(tmp_path, tokenizer=tokenizer)
    with pytest.raises(InputError, match=r"must not know more tokens than the model has embeddings for, got 15 and 14"):
        load_model(str(tmp_path), SST2)


# ---- Outputs that are more than logits ----

SMALL = {"vocab_size": len(TOKENIZER), "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}


@pytest.mark.parametrize("method", ["lstsd", "mean_teacher", "snapshot_ensemble", "snapshot_distillation"])
@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_encoder_decoders(tmp_path, monkeypatch, kind, method):
    """Their outputs hold encoder states beside the logits: evaluation, label errors and submissions take the logits."""
    monkeypatch.chdir(tmp_path)
    if kind == "bart":
        config = tiny_bart(bos_token_id=1, **SMALL)
        save("model", BartForSequenceClassification, config)
    else:
        config = T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, **SMALL)
        save("model", T5ForSequenceClassification, config)
    # Both read a row at its end token.
    rows = [{"text": f"{word} c d [SEP]", "label": index % 2} for index, word in enumerate("abcdefgh")]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
    period = {"lstsd": "--mini_generation_epochs 1", "mean_teacher": ""}.get(method, "--cycle_epochs 1")
    cli.main(
        f"--train_file own.jsonl --validation_file own.jsonl --test_file test.jsonl --do_predict --method {method} "
        f"{period} --model_name_or_path model --num_train_epochs 3 --label_noise 0.3 --per_device_train_batch_size 4 "
        "--use_cpu True --save_strategy no --report_to none --output_dir out".split()
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert 0 <= results["last_epoch"]["eval_accuracy"] <= 1
    assert results["label_errors"]["model"]
    assert len(list((tmp_path / "out").glob("*.tsv"))) == 1
