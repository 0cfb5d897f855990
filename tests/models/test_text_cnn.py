"""The convolutional network and its tokenizer, as any other model."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from lstsd_hf.errors import InputError
from lstsd_hf.glue.models import _set_dropout, load_model, train_word_tokenizer
from lstsd_hf.glue.tasks import TASKS
from lstsd_hf.models import TextCNNConfig, TextCNNForSequenceClassification

TEXTS = ["The dog saw the cat.", "The cat saw a dog!", "A dog, a cat"]


def make_cnn(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "embedding_size": 6, "num_filters": 4, "filter_widths": (2, 3)}
    return TextCNNForSequenceClassification(TextCNNConfig(**(sizes | options))).eval()


def test_max_over_time_by_hand():
    """One filter of width 2 that adds up the first coordinate of two neighbouring words."""
    model = make_cnn(embedding_size=1, num_filters=1, filter_widths=(2,), vocab_size=4)
    with torch.no_grad():
        model.embedding.weight.copy_(torch.tensor([[0.0], [1.0], [2.0], [5.0]]))
        model.convolutions[0].weight.fill_(1.0)
        model.convolutions[0].bias.fill_(-1.0)
        model.classifier.weight.copy_(torch.tensor([[1.0], [-2.0]]))
        model.classifier.bias.zero_()
    # Windows 1+2, 2+5, 5+nothing, less the bias of 1: the largest is 6.
    logits = model(torch.tensor([[1, 2, 3]])).logits
    torch.testing.assert_close(logits, torch.tensor([[6.0, -12.0]]))
    # A single word: its one window reaches beyond the end.
    torch.testing.assert_close(model(torch.tensor([[3]])).logits, torch.tensor([[4.0, -8.0]]))


def test_a_batch_of_empty_texts():
    model = make_cnn()
    empty = torch.zeros(2, 0, dtype=torch.int64)
    padded = model(torch.full((2, 1), model.config.pad_token_id)).logits
    torch.testing.assert_close(model(empty, attention_mask=empty).logits, padded)


def test_words_multiplied_once_are_the_convolution_over_the_text():
    """Outputs and gradients against torch's own convolution over padded word vectors, in float64."""
    model = make_cnn(filter_widths=(1, 2, 5)).double()
    words = torch.tensor([[3, 7, 3, 2, 7, 7], [4, 0, 0, 0, 0, 0]])
    is_word = (words > 0).double().unsqueeze(1)

    def by_convolution():
        vectors = model.embedding(words).transpose(1, 2)
        features = [
            (convolution(torch.nn.functional.pad(vectors, (0, convolution.kernel_size[0] - 1))).relu() * is_word).amax(
                -1
            )
            for convolution in model.convolutions
        ]
        return model.classifier(torch.cat(features, dim=-1))

    gradients = []
    for logits in (model(words).logits, by_convolution()):
        model.zero_grad()
        logits.square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    torch.testing.assert_close(model(words).logits, by_convolution(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_padding_changes_nothing():
    model = make_cnn()
    alone = model(torch.tensor([[3, 7, 2]]), torch.ones(1, 3, dtype=torch.long)).logits
    padded = torch.tensor([[3, 7, 2, 0, 0, 0], [4, 5, 6, 7, 8, 9]])
    torch.testing.assert_close(model(padded, (padded > 0).long()).logits[:1], alone)
    torch.testing.assert_close(model(padded).logits[:1], alone)
    assert model(torch.zeros(1, 4, dtype=torch.long)).logits.isfinite().all()


def test_it_is_saved_and_loaded_like_any_model(tmp_path):
    model, tokenizer = load_model("cnn", TASKS["mrpc"], TEXTS)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(again) is TextCNNForSequenceClassification
    assert AutoConfig.from_pretrained(tmp_path).id2label == {0: "not_equivalent", 1: "equivalent"}
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert words("The DOG, unseen")["input_ids"] == tokenizer("the dog , another")["input_ids"]
    answer = pipeline("text-classification", model=again, tokenizer=words)("The dog saw the cat")
    assert answer[0]["label"] in TASKS["mrpc"].label_names


def test_words_of_a_pair_are_separated_and_rare_ones_unknown():
    tokenizer = train_word_tokenizer(TEXTS)
    encoded = tokenizer("The dog", "a zebra saw")
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert tokens == ["the", "dog", "[SEP]", "a", "[UNK]", "saw"]
    assert sorted(encoded) == ["attention_mask", "input_ids"]
    padded = tokenizer(["the dog", "the"], padding=True)
    assert padded["input_ids"][1][1] == tokenizer.pad_token_id == 0


def test_the_new_embedding_of_padding_is_zero_and_stays():
    model = make_cnn().train()
    model(torch.tensor([[3, 0]]), labels=torch.tensor([1])).loss.backward()
    assert torch.equal(model.embedding.weight[0], torch.zeros(6))
    assert torch.equal(model.embedding.weight.grad[0], torch.zeros(6))
    assert model.embedding.weight.grad[3].abs().sum() > 0


def test_dropout_can_be_set():
    model, _ = load_model("minilm", TASKS["rte"], dropout=0.35)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.35}
    cnn, _ = load_model("cnn", TASKS["rte"], TEXTS, dropout=0.2)
    assert cnn.dropout.p == 0.2


def test_a_folder_that_holds_no_usable_model(tmp_path):
    with pytest.raises(InputError, match="could not be loaded: Unrecognized model"):
        load_model(str(tmp_path), TASKS["rte"])
    model, tokenizer = load_model("minilm", TASKS["rte"])
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="must know words, found only"):
        load_model(str(tmp_path), TASKS["rte"])
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="must have a padding token, found none"):
        load_model(str(tmp_path), TASKS["rte"])


def test_dropout_of_a_model_without_any():
    with pytest.raises(InputError) as error:
        _set_dropout(SimpleNamespace(hidden_size=8), 0.1)
    assert str(error.value) == (
        "`dropout` needs a model whose config has one of hidden_dropout_prob, attention_probs_dropout_prob, "
        "classifier_dropout, dropout, attention_dropout, seq_classif_dropout, got SimpleNamespace. Leave it out."
    )


def test_padding_on_the_left_changes_nothing():
    model = make_cnn()
    words = torch.tensor([[3, 7, 4]])
    padded = torch.tensor([[0, 0, 3, 7, 4]])
    torch.testing.assert_close(model(padded, attention_mask=(padded > 0).long()).logits, model(words).logits)
