"""Token-level tasks: every labelled token is an example of its own."""

import copy
import shutil
from types import SimpleNamespace

import datasets
import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BertForTokenClassification,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForTokenClassification,
    Trainer,
)

from lstsd_hf import LSTSDConfig, LSTSDTrainer, NoTeacherConfig, Observer, SelfDistillationMixin, SnapshotEnsembleConfig
from lstsd_hf.dynamics import History
from lstsd_hf.errors import InputError
from lstsd_hf.tokens import TokenIndex
from tests.helpers import (
    DISTILLING,
    InOrder,
    SavesAt,
    active,
    assert_same_weights,
    make_examples,
    make_model,
    make_trainer,
    ragged_rows,
    tokenizer,
)

LABELS = 3
TAKES_TOKENS = [config for config in DISTILLING if active(config).build().takes_tokens]
OTHERS = [config for config in DISTILLING if config not in TAKES_TOKENS]
by_name = {"ids": lambda config: config.name}


def tagged(count=14, words=60):
    """Sentences of 3 to 7 tokens; the first one, and every token that 7 divides, has no label."""
    return [
        {"input_ids": ids, "labels": [-100, *(-100 if token % 7 == 0 else token % LABELS for token in ids[1:])]}
        for ids in ([1 + token % (words - 1) for token in row["input_ids"]] for row in ragged_rows(count))
    ]


def tagger(dropout=0.1, labels=LABELS):
    torch.manual_seed(0)
    config = copy.deepcopy(make_model(labels, dropout=dropout).config)
    return BertForTokenClassification(config)


def language_model(dropout=0.0):
    torch.manual_seed(0)
    options = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2LMHeadModel(GPT2Config(vocab_size=60, n_positions=64, n_embd=16, n_layer=1, n_head=2, **options))


def sentences(count=14):
    return [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in ragged_rows(count)]


def collator(padding_side="right"):
    own = tokenizer()
    own.padding_side = padding_side
    return DataCollatorForTokenClassification(own)


def token_trainer(make_args, teacher=None, trainer_class=LSTSDTrainer, **options):
    defaults = {"model": tagger(), "train_dataset": tagged(), "data_collator": collator()}
    return make_trainer(make_args, teacher, trainer_class, **(defaults | options))


# ---- Indices ----


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("is_shifted", [False, True])
def test_each_token_has_the_index_of_its_place(side, is_shifted):
    data = tagged()
    index = TokenIndex.of_dataset(data, (), is_shifted, "cpu")
    places = {}
    for example, row in enumerate(data):
        for position, label in enumerate(row["labels"]):
            if label != -100 and position >= is_shifted:
                places[example, position] = len(places)
    assert index.num_tokens == len(places)
    examples = [9, 2, 4, 2]
    batch = collator(side)([data[example] for example in examples])
    tokens = index.find(torch.tensor(examples), batch["labels"])
    # Logits that tell of which example, and of which of its tokens, they are.
    width = batch["labels"].size(1)
    logits = torch.full((4, width, 2), -1)
    for row, example in enumerate(examples):
        length = len(data[example]["labels"])
        start = width - length if side == "left" else 0
        logits[row, start : start + length] = torch.tensor([[example, position] for position in range(length)])
    found = [(example, position + is_shifted) for example, position in tokens.of(logits).tolist()]
    assert [places[token] for token in found] == tokens.indices.tolist()
    assert [data[example]["labels"][position] for example, position in found] == tokens.labels.tolist()


def test_labels_of_a_dataset_of_any_kind():
    data = tagged()
    expected = TokenIndex.of_dataset(data, (), False, "cpu")
    tensors = [{"labels": torch.tensor(row["labels"])} for row in data]
    table = datasets.Dataset.from_list(data).with_format("torch")
    for other in (tensors, table):
        index = TokenIndex.of_dataset(other, (), False, "cpu")
        for name in ("examples", "positions", "labels", "_counts", "_starts"):
            assert torch.equal(getattr(index, name), getattr(expected, name))


# ---- The paper's rule ----


def literal_run(model, data, *, batch_size, epochs, length, weights, learning_rate, shift):
    """Algorithm 1 over tokens, with a dict of teachers: examples in order, plain SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    latest, short, long = {}, {}, {}
    for epoch in range(epochs):
        short = dict(latest)
        if epoch % length == 0:
            long = dict(latest)
        for start in range(0, len(data), batch_size):
            rows = range(start, min(start + batch_size, len(data)))
            batch = collator()([data[row] for row in rows])
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            loss, terms, count = 0.0, 0.0, 0
            for i, row in enumerate(rows):
                for position, label in enumerate(data[row]["labels"]):
                    if label == -100 or position < shift:
                        continue
                    student = logits[i, position - shift]
                    log_p = student.log_softmax(-1)
                    loss, count = loss - log_p[label], count + 1
                    if epoch >= length:
                        for weight, table in zip(weights, (short, long), strict=True):
                            log_z = table[row, position].log_softmax(-1)
                            terms = terms + weight * (log_p.exp() * (log_p - log_z)).sum()
                    latest[row, position] = student.detach().clone()
            optimizer.zero_grad()
            # Trainer takes the first label of a sentence for one that GPT-2 predicts.
            ((loss + terms) / (count + shift * len(rows))).backward()
            optimizer.step()


@pytest.mark.parametrize("kind", ["tagger", "language model"])
def test_it_is_algorithm_1_over_tokens(make_args, kind):
    is_tagger = kind == "tagger"
    ours = (tagger if is_tagger else language_model)(dropout=0.0)
    ours.double()
    reference = copy.deepcopy(ours)
    data = tagged() if is_tagger else sentences()
    options = {"optim": "sgd", "learning_rate": 0.3, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    config = LSTSDConfig(lambda_short=2.0, lambda_long=1.5, mini_generation_epochs=2, teacher_floor=0.0)
    trainer = token_trainer(make_args, config, trainer_class=InOrder, model=ours, train_dataset=data, **options)
    trainer.train()
    assert trainer.state.log_history[-2]["teacher_coverage"] == 1.0
    literal_run(
        reference,
        data,
        batch_size=4,
        epochs=6,
        length=2,
        weights=(2.0, 1.5),
        learning_rate=0.3,
        shift=int(not is_tagger),
    )
    # A language model's loss is computed in single precision whatever the model's.
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if is_tagger else {"rtol": 1e-4, "atol": 1e-7}
    assert_same_weights(ours, reference, **tolerance)


@pytest.mark.parametrize("accumulation", [2, 3])
def test_terms_are_on_the_scale_of_a_loss_that_counts_tokens(make_args, accumulation):
    """GPT-2 divides by the labels of the whole step, so that its division into micro-batches does not matter."""

    def trained(micro_batches):
        trainer = token_trainer(
            make_args,
            active(LSTSDConfig),
            InOrder,
            model=language_model(),
            train_dataset=sentences(12),
            optim="sgd",
            learning_rate=0.3,
            per_device_train_batch_size=6 // micro_batches,
            gradient_accumulation_steps=micro_batches,
        )
        trainer.train()
        return trainer.model

    assert_same_weights(trained(accumulation), trained(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("storage", ["bf16", "top-1", "disk,bf16,top-8"])
def test_other_storages(make_args, storage):
    options = {"model": language_model(), "train_dataset": sentences()}
    trainer = token_trainer(make_args, memory_storage=storage, **options)
    trainer.train()
    assert trainer.state.log_history[-2]["loss_long"] > 0
    assert trainer.teacher.memory.coverage == 1.0


class OwnLanguageModel(nn.Module):
    """Of which only its loss tells that it predicts the next token."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(60, 8), nn.Linear(8, 60)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.head(self.embedding(input_ids))
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": loss, "logits": logits}


class OfAnotherName(GPT2LMHeadModel):
    pass


class WithZLoss(GPT2LMHeadModel):
    """Its loss depends on the outputs at all positions."""

    def forward(self, input_ids, attention_mask=None, labels=None, **kwargs):
        outputs = super().forward(input_ids, attention_mask=attention_mask, labels=labels, **kwargs)
        if outputs.loss is not None:
            # So little that it shows in the gradient's places only.
            outputs.loss = outputs.loss + 1e-6 * outputs.logits.logsumexp(-1).square().mean()
        return outputs


def encoder_decoder(kind):
    torch.manual_seed(0)
    if issubclass(kind, T5ForConditionalGeneration):
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
        return kind(T5Config(vocab_size=60, dropout_rate=0.0, **sizes))
    layers = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in SIZES.items()}
    return kind(
        BartConfig(vocab_size=60, d_model=16, max_position_embeddings=20, pad_token_id=0, dropout=0.0, **layers)
    )


SIZES = {"layers": 1, "ffn_dim": 16, "attention_heads": 2}
MODELS = {
    "tagger": lambda: tagger(dropout=0.0),
    "GPT-2": language_model,
    "its subclass": lambda: OfAnotherName(language_model().config),
    "own": OwnLanguageModel,
    "z-loss": lambda: WithZLoss(language_model().config),
    "BART's decoder": lambda: encoder_decoder(BartForCausalLM),
    "BART": lambda: encoder_decoder(BartForConditionalGeneration),
    "T5": lambda: encoder_decoder(T5ForConditionalGeneration),
}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_an_output_belongs_to_the_label_that_the_loss_compares_it_with(make_args, name, bf16):
    """Without dropout a second pass has the same loss as the first."""
    data = tagged() if name == "tagger" else sentences()
    collate = DataCollatorForSeq2Seq(tokenizer()) if name in ("BART", "T5") else collator()
    if name in ("BART", "T5"):
        # Its decoder's inputs are not the source.
        data = [{**row, "labels": row["labels"][::-1][:-1]} for row in data]
    options = {"model": MODELS[name](), "train_dataset": data, "data_collator": collate, "bf16": bf16}
    trainer = token_trainer(make_args, "r_drop", **options, num_train_epochs=1)
    trainer.train()
    tolerance = 2e-2 if bf16 else 1e-5
    for entry in trainer.state.log_history[:-1]:
        # Trainer counts the first label of a sentence, which GPT-2's loss leaves out.
        assert entry["loss_second_labels"] == pytest.approx(entry["loss_base"], rel=tolerance)


def test_the_class_tells_where_the_loss_does_not(make_args, monkeypatch, caplog):
    """As of a compiled model, whose gradient cannot be asked for twice."""

    def refuse(*args, **kwargs):
        raise RuntimeError("donated buffers")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    for model, is_shifted in ((language_model(), True), (OwnLanguageModel(), False)):
        trainer = token_trainer(make_args, model=model, train_dataset=sentences())
        trainer.train()
        assert trainer.teacher.context.token_index.is_shifted is is_shifted
    (message,) = [record.getMessage() for record in caplog.records if record.name == "lstsd_hf.tokens"]
    assert message.startswith("Whether OwnLanguageModel predicts the next token is told by its class")


def test_a_first_batch_without_labels_tells_nothing(make_args):
    data = sentences(8)
    for row in data[:4]:
        row["labels"] = [-100] * len(row["labels"])
    trainer = token_trainer(make_args, model=OwnLanguageModel(), train_dataset=data, trainer_class=InOrder)
    # A mean over no labels is not a number.
    for parameter in trainer.model.parameters():
        parameter.register_hook(torch.nan_to_num)
    trainer.train()
    index = trainer.teacher.context.token_index
    assert index.is_shifted
    assert len(trainer.teacher.memory.short_term_logits) == index.num_tokens


def test_padding_before_a_causal_language_model(make_args):
    """It predicts the first token from the padding, and only where there is some."""
    options = {"model": language_model(), "data_collator": collator("left")}
    with pytest.raises(InputError, match="must be padded on the right, or their first token must have the label -100"):
        token_trainer(make_args, train_dataset=sentences(), **options).train()
    data = [{**row, "labels": [-100, *row["labels"][1:]]} for row in sentences()]
    trainer = token_trainer(make_args, train_dataset=data, **options)
    trainer.train()
    assert trainer.teacher.memory.coverage == 1.0


def test_a_decoder_whose_inputs_are_not_known(make_args):
    class Other(T5ForConditionalGeneration):
        prepare_decoder_input_ids_from_labels = None

    options = {"train_dataset": sentences(), "data_collator": DataCollatorForSeq2Seq(tokenizer())}
    trainer = token_trainer(make_args, "r_drop", model=encoder_decoder(Other), **options)
    with pytest.raises(InputError, match="must have `decoder_input_ids` for Other, which makes them of the labels"):
        trainer.train()


@pytest.mark.parametrize("length", [5, 60])
def test_the_scale_of_a_language_model_is_measured_once(make_args, length):
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(1, 60, (8, length)).tolist()]
    trainer = token_trainer(make_args, model=language_model(), train_dataset=rows)
    trainer.train()
    assert trainer._base_loss_kind.is_measured
    scale = trainer.distillation_scale(4 * (length - 1), 4 * length, torch.zeros(4 * (length - 1)))
    assert float(scale) == pytest.approx((length - 1) / length)


# ---- Every method ----


@pytest.mark.parametrize("config_class", TAKES_TOKENS, **by_name)
def test_methods_that_take_tokens(make_args, config_class):
    def train(config, trainer_class=LSTSDTrainer, resume=None, callbacks=()):
        trainer = token_trainer(
            make_args,
            config,
            trainer_class,
            callbacks=list(callbacks),
            save_strategy="steps",
            save_steps=1000,
            compute_metrics=lambda prediction: {"length": float(prediction.label_ids.shape[1])},
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    stock = train(None, Trainer)
    assert_same_weights(stock.model, train(config_class.neutral()).model)
    ours = train(active(config_class), callbacks=[SavesAt((10,))])
    last = [entry for entry in ours.state.log_history if "loss" in entry][-1]
    terms = {name: value for name, value in last.items() if name.startswith("loss_") and name != "loss_base"}
    assert terms
    assert all(terms.values())
    assert not torch.equal(stock.model.classifier.weight, ours.model.classifier.weight)
    resumed = train(active(config_class), resume=f"{ours.args.output_dir}/checkpoint-10")
    assert_same_weights(ours.model, resumed.model)
    # Batches of other lengths, one of them of single tokens.
    rows = [*tagged(8), *({"input_ids": [4], "labels": [1]} for _ in range(8)), *tagged(5)]
    assert ours.evaluate(rows)["eval_length"] == 7.0


@pytest.mark.parametrize("config_class", OTHERS, **by_name)
def test_methods_that_do_not(make_args, config_class):
    trainer = token_trainer(make_args, active(config_class, LABELS))
    with pytest.raises(InputError, match="cannot work on a token-level task, got logits"):
        trainer.train()


def test_others_that_do_not(make_args):
    class Watches(Observer):
        name, is_stateful = "watches", False

    trainer = token_trainer(make_args, observers=[Watches()])
    with pytest.raises(InputError, match="Watches cannot work on a token-level task"):
        trainer.train()
    with pytest.raises(InputError, match=r"got logits of shape \(4, \d, 3\)"):
        token_trainer(make_args, SnapshotEnsembleConfig(cycle_epochs=2)).train()


def test_a_plain_language_model(make_args):
    """λ = 0 is stock Trainer, λ > 0 is not."""

    def train(*own):
        trainer = token_trainer(make_args, *own, model=language_model(0.1), train_dataset=sentences())
        trainer.train()
        return trainer

    stock, ours = train(None, Trainer), train(LSTSDConfig())
    assert_same_weights(stock.model, train(LSTSDConfig.neutral()).model)
    assert not torch.equal(stock.model.lm_head.weight, ours.model.lm_head.weight)
    assert ours.state.log_history[-2]["loss_short"] > 0


def test_a_language_model_with_labels_from_the_collator(make_args):
    """As `DataCollatorForLanguageModeling` makes them; a token of padding within a sentence has none, and is told."""

    def train(data, collate):
        trainer = token_trainer(make_args, model=language_model(), train_dataset=data, data_collator=collate)
        trainer.train()
        return trainer.model

    bare = [{"input_ids": row["input_ids"]} for row in sentences()]
    collate = DataCollatorForLanguageModeling(tokenizer(), mlm=False)
    assert_same_weights(train(bare, collate), train(sentences(), collator()))
    # Of the token of padding within a sentence there is no label, as where the end of a text pads others.
    bare[5]["input_ids"] = [4, 7, 0]
    labelled = sentences()
    labelled[5] = {"input_ids": [4, 7, 0], "labels": [4, 7, -100]}
    assert_same_weights(train(bare, collate), train(labelled, collator()))


def test_a_tagger_with_a_decoder_decodes_its_text(make_args):
    """It makes the decoder's inputs of its own ones, not of the tags."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    part = {"vocab_size": 60, "num_key_value_heads": 2, "head_dim": 8, **sizes}
    config = T5GemmaConfig(encoder=part, decoder=part, vocab_size=60, num_labels=LABELS, pad_token_id=0)
    config.decoder.bos_token_id = 1
    model = T5GemmaForTokenClassification(config)
    assert model.config.is_encoder_decoder
    trainer = token_trainer(make_args, "r_drop", model=model, processing_class=tokenizer(), record_dynamics=True)
    trainer.train()
    for entry in trainer.state.log_history[:-1]:
        assert entry["loss_second_labels"] == pytest.approx(entry["loss_base"], rel=1e-5)
    for candidate in trainer.rank_label_errors():
        assert f"[w{tagged()[candidate.index]['input_ids'][candidate.token]}" in candidate.text


# ---- Wrong labels ----


@pytest.mark.parametrize("recorded", [False, True])
def test_wrong_tags_are_ranked_early(make_args, recorded):
    data = tagged(40, words=10)
    generator = torch.Generator().manual_seed(0)
    wrong = set()
    for example in range(0, 40, 4):
        position = 1 + int(torch.randint(len(data[example]["labels"]) - 1, (), generator=generator))
        if data[example]["labels"][position] != -100:
            data[example]["labels"][position] = (data[example]["labels"][position] + 1) % LABELS
            wrong.add((example, position))
    options = {"num_train_epochs": 8, "train_dataset": data, "processing_class": tokenizer()}
    trainer = token_trainer(make_args, **options, record_dynamics=recorded)
    trainer.train()
    ranking = trainer.rank_label_errors()
    assert len(ranking) == sum(label != -100 for row in data for label in row["labels"])
    ranks = [rank for rank, item in enumerate(ranking) if (item.index, item.token) in wrong]
    assert len(ranks) == len(wrong)
    # By chance it is a half.
    assert sum(ranks) / len(ranks) < 0.25 * len(ranking)
    for item in ranking:
        assert data[item.index]["labels"][item.token] == item.given_label
        assert f"[w{data[item.index]['input_ids'][item.token]}" in item.text
    assert [item.given_probability for item in ranking] == sorted(item.given_probability for item in ranking)


def test_tokens_are_shown_among_their_neighbours():
    rows = [{"input_ids": [4, 5, 6, 0], "labels": [1, -100, 2, -100]}, {"input_ids": [7], "labels": [0]}]
    index = TokenIndex.of_dataset(rows, (), False, "cpu")

    def texts(**options):
        own = {"train_dataset": rows, "processing_class": tokenizer(), "generates_target": False, "label_names": []}
        return index.texts(SimpleNamespace(**(own | options)))

    assert texts() == ["[w4 w5] w6", "w4 w5 [w6]", "[w7]"]
    assert texts(processing_class=None) == [None] * 3
    assert texts(generates_target=True) == ["[w1] w2", "w1 [w2]", "[]"]


def test_what_each_epoch_says_of_each_token_is_recorded(make_args, tmp_path):
    """A run that is resumed after the last step of its first epoch writes the same."""

    def train(folder, resume=None):
        trainer = token_trainer(
            make_args,
            "vanilla",
            output_dir=str(folder),
            num_train_epochs=3,
            processing_class=tokenizer(),
            record_dynamics=True,
            callbacks=[] if resume else [SavesAt((4,))],
            save_strategy="steps",
            save_steps=1000,
        )
        trainer.train(resume_from_checkpoint=resume)
        return History.read(trainer.dynamics_folder)

    history = train(tmp_path / "whole")
    index = TokenIndex.of_dataset(tagged(), (), False, "cpu")
    assert history.log_probs.shape == (3, index.num_tokens, LABELS)
    assert history.given.tolist() == index.labels.tolist()
    assert len(history.texts) == index.num_tokens
    assert all("[w" in text for text in history.texts)
    (tmp_path / "resumed").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "resumed" / "checkpoint-4")
    resumed = train(tmp_path / "resumed", str(tmp_path / "resumed" / "checkpoint-4"))
    assert resumed.texts == history.texts
    assert (resumed.log_probs == history.log_probs).all()


# ---- What is not known, or does not fit ----


def test_labels_that_a_collator_makes(make_args):
    class Masks(DataCollatorForTokenClassification):
        def __call__(self, features, return_tensors=None):
            batch = super().__call__(features, return_tensors)
            batch["labels"][:, 1] = -100
            return batch

    class MasksOne(DataCollatorForTokenClassification):
        """At random, and the same number each time."""

        def __call__(self, features, return_tensors=None):
            batch = super().__call__(features, return_tensors)
            kept = torch.tensor([int(torch.randint(1, len(row["input_ids"]), ())) for row in features])
            batch["labels"] = torch.full_like(batch["labels"], -100).scatter(
                1, kept[:, None], batch["input_ids"].gather(1, kept[:, None])
            )
            return batch

    one = [{**row, "labels": [-100, row["input_ids"][1], *[-100] * (len(row["labels"]) - 2)]} for row in tagged()]
    for collate, own in ((Masks, {}), (MasksOne, {"train_dataset": one, "model": tagger(labels=60)})):
        trainer = token_trainer(make_args, data_collator=collate(tokenizer()), **own)
        with pytest.raises(InputError, match=r"must have the same labels in each batch, those of the training set; ex"):
            trainer.train()

    class Labels(DataCollatorForTokenClassification):
        def __call__(self, features, return_tensors=None):
            return super().__call__([{**row, "labels": row["input_ids"]} for row in features], return_tensors)

    bare = [{"input_ids": row["input_ids"]} for row in tagged()]
    trainer = token_trainer(make_args, train_dataset=bare, data_collator=Labels(tokenizer()), model=tagger(labels=60))
    with pytest.raises(InputError, match=r"must have the labels of its tokens, a list for each example, .* no labels"):
        trainer.train()


@pytest.mark.parametrize("config_class", TAKES_TOKENS, **by_name)
def test_a_batch_without_any_label(make_args, config_class):
    """Its loss is not a number in BERT, and 0 in a model that divides by the labels of the whole step."""
    data = sentences(8)
    for row in data[:2]:
        row["labels"] = [-100] * len(row["labels"])
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "trainer_class": InOrder}
    trainer = token_trainer(make_args, active(config_class), model=language_model(), train_dataset=data, **options)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(abs(entry["loss"]) < 100 for entry in logs)
    assert trainer.distilled_steps > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: {"labels": " ".join(map(str, row["labels"]))}, "a list for each example, .* got '-100 "),
        (lambda row: {"labels": [-100] * len(row["labels"])}, "must have labelled tokens, got none"),
    ],
)
def test_a_training_set_without_labels_of_tokens(make_args, change, message):
    class Reads(DataCollatorForTokenClassification):
        """Labels given as text."""

        def __call__(self, features, return_tensors=None):
            read = [{**row, "labels": [int(label) for label in row["labels"].split()]} for row in features]
            return super().__call__(read, return_tensors)

    data = [{**row, **change(row)} for row in tagged()]
    collate = Reads if isinstance(data[0]["labels"], str) else DataCollatorForTokenClassification
    trainer = token_trainer(make_args, train_dataset=data, data_collator=collate(tokenizer()))
    with pytest.raises(InputError, match=message):
        trainer.train()


def test_one_label_is_no_class(make_args):
    data = [{**row, "labels": [min(label, 0) for label in row["labels"]]} for row in tagged()]
    with pytest.raises(InputError, match=r"integer labels .* of at least 2 kinds, .* got logits of shape \(4, \d, 1\)"):
        token_trainer(make_args, model=tagger(labels=1), train_dataset=data).train()


def test_the_tokens_labels_beside_those_of_the_sentence(make_args):
    """Joint intents and slots."""

    class Joint(BertForTokenClassification):
        def forward(self, input_ids, attention_mask=None, intent_label=None, labels=None):
            return super().forward(input_ids, attention_mask, labels=labels)

    torch.manual_seed(0)
    data = [{**row, "intent_label": 0} for row in tagged()]
    trainer = token_trainer(make_args, model=Joint(tagger().config), train_dataset=data)
    assert trainer.label_names[0] == "intent_label"
    trainer.train()
    assert trainer.state.log_history[-2]["loss_short"] > 0


def test_generated_texts_are_not_scored_beside_logits(make_args, tmp_path):
    class Generates(SelfDistillationMixin, Seq2SeqTrainer):
        pass

    args = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), predict_with_generate=True, use_cpu=True, report_to=[], eval_strategy="epoch"
    )
    trainer = Generates(
        model=encoder_decoder(BartForConditionalGeneration),
        args=args,
        train_dataset=sentences(),
        eval_dataset=sentences(),
        data_collator=DataCollatorForSeq2Seq(tokenizer()),
        teacher="mean_teacher",
        compute_metrics=lambda prediction: {},
    )
    with pytest.raises(InputError, match="`predict_with_generate` must be False with MeanTeacher, got True"):
        trainer.train()


def test_a_model_of_ones_own(make_args):
    """Without a config, with outputs as a tuple."""

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(60, 8), nn.Linear(8, LABELS)

        def forward(self, input_ids, labels=None, **kwargs):
            logits = self.head(self.embedding(input_ids))
            if labels is None:
                return (logits,)
            return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits

    trainer = token_trainer(make_args, model=Tagger())
    trainer.train()
    assert trainer.state.log_history[-2]["loss_long"] > 0
    assert trainer.teacher.memory.short_term_logits.shape == (trainer._context.token_index.num_tokens, LABELS)


def test_other_examples_are_refused_on_resume(make_args):
    trainer = token_trainer(make_args, callbacks=[SavesAt((10,))], save_strategy="steps", save_steps=1000)
    trainer.train()
    data = tagged()
    data[3]["labels"] = [-100] * len(data[3]["labels"])
    other = token_trainer(make_args, train_dataset=data)
    with pytest.raises(InputError, match="The training labels are others"):
        other.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-10")


def test_no_teacher_trains_anything(make_args):
    data = [{"input_ids": row["input_ids"]} for row in make_examples(4)]
    collate = DataCollatorForLanguageModeling(tokenizer(), mlm=False)
    options = {"model": language_model(), "train_dataset": data, "data_collator": collate}
    token_trainer(make_args, NoTeacherConfig(), **options).train()
