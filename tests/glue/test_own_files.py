"""Which columns of one's own files are taken for what: told, or refused, never guessed."""

import csv
import io
import json
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from lstsd_hf.errors import InputError
from lstsd_hf.glue.own_files import load_files
from lstsd_hf.text_columns import KNOWN_PAIRS, choose_text_columns

SENTENCES = [
    "a fine film",
    "the plot is thin",
    "no one laughs here",
    "what a day it was",
    "fine, but too long",
    "so dull",
]
LABELS = [1, 0, 0, 1, 1, 0]


def rows_of(**columns):
    """Rows with a text in six sentences, its label, and more columns."""
    return [{name: values[index] for name, values in columns.items()} | {"label": LABELS[index]} for index in range(6)]


WORDS = ["red", "blue", "green", "grey", "pink", "black"]
OTHERS = [text[::-1] for text in SENTENCES]

# Columns beside `label`, and which are the texts; a text instead of them is in the error.
CHOICES = [
    # pandas' index, in the forms that its writers give it
    ({"": range(6), "text": SENTENCES}, ("text",)),
    ({"Unnamed: 0": range(6), "text": SENTENCES}, ("text",)),
    ({"Unnamed: 0.1": range(6), "review": SENTENCES}, ("review",)),
    ({"index": range(6), "review": SENTENCES}, ("review",)),
    ({"level_0": WORDS, "review": SENTENCES}, ("review",)),
    ({"__index_level_0__": range(6), "review": SENTENCES}, ("review",)),
    # identifiers
    ({"id": range(6), "text": SENTENCES}, ("text",)),
    ({"id": WORDS, "review": SENTENCES}, ("review",)),
    ({"review_id": [f"r {i}" for i in range(6)], "review": SENTENCES}, ("review",)),
    ({"uuid": [f"a b {i}" for i in range(6)], "review": SENTENCES}, ("review",)),
    ({"docId": [f"a b {i}" for i in range(6)], "review": SENTENCES}, ("review",)),
    # leaks
    ({"text": SENTENCES, "label_text": ["yes" if label else "no" for label in LABELS]}, ("text",)),
    ({"review": SENTENCES, "label_text": [f"class {label}" for label in LABELS]}, ("review",)),
    ({"review": SENTENCES, "sentiment": [f"so {'good' if label else 'bad'}" for label in LABELS]}, ("review",)),
    ({"review": SENTENCES, "labels": [f"is {label}" for label in LABELS]}, ("review",)),
    # numbers, and what is alike in all rows
    ({"review": SENTENCES, "stars": [f"{i}.5" for i in range(6)]}, ("review",)),
    ({"review": SENTENCES, "share": [f"{i} %".replace(" ", "") for i in range(6)]}, ("review",)),
    ({"review": SENTENCES, "split": ["train set"] * 6}, ("review",)),
    ({"review": SENTENCES, "topic": WORDS}, ("review",)),
    # pairs
    ({"premise": SENTENCES, "hypothesis": OTHERS}, ("premise", "hypothesis")),
    ({"Sentence1": SENTENCES, "sentence2": OTHERS, "idx": range(6)}, ("Sentence1", "sentence2")),
    ({"title": OTHERS, "body": SENTENCES}, ("title", "body")),
    ({"text": SENTENCES, "summary": OTHERS}, ("text",)),
    ({"word": WORDS}, ("word",)),
    # what is not clear
    ({"title": SENTENCES, "body": OTHERS, "comment": [text.upper() for text in SENTENCES]}, "Name the columns of text"),
    ({"one": WORDS, "other": WORDS[::-1]}, "Name the columns of text"),
    ({"text": SENTENCES, "sentence": OTHERS}, "got columns for several: text or sentence"),
    ({"text": SENTENCES, "Text": OTHERS}, "got columns for several"),
    ({"premise": SENTENCES, "hypothesis": OTHERS, "question": WORDS}, "got columns for several"),
    ({"id": range(6)}, "'id': an identifier"),
    ({"score": range(6)}, "'score': holds numbers"),
    ({"tokens": [text.split() for text in SENTENCES]}, "'tokens': holds lists or objects"),
]


@pytest.mark.parametrize(("columns", "expected"), CHOICES, ids=lambda value: "-".join(map(str, value))[:40])
def test_the_texts_are_told_by_name_or_refused(columns, expected):
    rows = rows_of(**columns)
    if isinstance(expected, str):
        with pytest.raises(InputError) as error:
            choose_text_columns(rows, "train.csv")
        assert expected in str(error.value)
        assert "--text_columns" in str(error.value)
    else:
        texts, left_out = choose_text_columns(rows, "train.csv")
        assert texts == expected
        assert set(left_out) == columns.keys() - set(expected)


@given(
    st.permutations([*WORDS, "text_label", "x id", "Unnamed: 7", "body"]),
    st.lists(st.sampled_from(["number", "leak", "constant", "list"]), min_size=1, max_size=4),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=60)
def test_noise_beside_a_text_is_never_taken_for_one(names, kinds, seed):
    """Columns that hold no sentences, under any name and in any order."""
    draw = random.Random(seed)
    makers = {
        "number": lambda: [draw.choice(["1", "2.5", "-3", "4e2", ""]) for _ in LABELS],
        "leak": lambda: [f"is {label}" for label in LABELS],
        "constant": lambda: ["the same"] * 6,
        "list": lambda: [["a b", index] for index in LABELS],
    }
    columns = {"my text": SENTENCES} | {name: makers[kind]() for name, kind in zip(names, kinds, strict=False)}
    shuffled = dict(draw.sample(list(columns.items()), len(columns)))
    assert choose_text_columns(rows_of(**shuffled), "train.csv")[0] == ("my text",)


@given(st.sampled_from(KNOWN_PAIRS), st.permutations(range(4)))
@settings(deadline=None)
def test_known_names_settle_it(pair, order):
    columns = list({pair[0]: WORDS, pair[1]: WORDS[::-1], "notes": SENTENCES, "more": OTHERS}.items())
    texts, _ = choose_text_columns(rows_of(**dict(columns[index] for index in order)), "train.csv")
    assert texts == pair


def test_requested_columns(tmp_path):
    rows = rows_of(title=SENTENCES, body=OTHERS, comment=WORDS)
    path = written(tmp_path / "train.csv", rows)
    task, splits = load_files(path, path, text_columns=["comment", "title"])
    assert task.text_columns == ("comment", "title")
    assert splits["train"]["comment"][:] == WORDS
    for wrong in (["label"], ["comment", "comment"], ["comment", "title", "body"], ["no"], []):
        with pytest.raises(
            InputError, match=r"`text_columns` must be one or two different columns of .*; the columns "
        ):
            load_files(path, path, text_columns=wrong)


def written(path, rows):
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# ---- Values that are none, and files that are another format ----

GOOD = '{"text": "a b", "label": 0}\n'
FILES = [
    ("lone.jsonl", GOOD + '{"text": "half \\ud83d", "label": 1}\n', "line 2: `text` must be text that UTF-8 can hold"),
    ("label.jsonl", GOOD + '{"text": "a", "label": "\\udc00"}\n', "line 2: `label` must be text that UTF-8 can hold"),
    ("columns.json", '{"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}', "got whole columns: 'text', 'label'"),
    ("lists.json", '{"text": ["a", "b"], "label": [1, 0]}', "got whole columns"),
    ("records.json", '[{"text": "a", "label": 1}]', "line 1: expected a JSON object, got list."),
    ("pretty.json", '[\n  {"text": "a"}\n]', 'df.to_json(path, orient="records", lines=True)'),
    ("split.json", '{"columns": ["text"], "index": [0], "data": [["a"]]}', "got whole columns"),
    (
        "nested.jsonl",
        GOOD + '{"text": {"en": "a"}, "label": 1}\n',
        "line 2: `text` must be a text or a number, got a dict",
    ),
    (
        "list.jsonl",
        GOOD + '{"text": ["a", "b"], "label": 1}\n',
        "line 2: `text` must be a text or a number, got a list",
    ),
    (
        "onehot.jsonl",
        GOOD + '{"text": "a", "label": [1, 0]}\n',
        "line 2: `label` must be a text or a number, got a list",
    ),
    (
        "dict.jsonl",
        GOOD + '{"text": "a", "label": {"x": 1}}\n',
        "line 2: `label` must be a text or a number, got a dict",
    ),
    ("null.jsonl", GOOD + '{"text": null, "label": 1}\n', "line 2: `text` must have a value, got null. Leave"),
    ("nulllabel.jsonl", GOOD + '{"text": "a", "label": null}\n', "line 2: `label` must have a value, got null"),
    ("nolabel.jsonl", GOOD + '{"text": "a"}\n', "line 2: columns ['label'] missing"),
    ("twice.jsonl", '{"text": "a", "text": "b", "label": 1}\n', "line 1: an object must name each column once"),
    ("deep.jsonl", "[" * 100_000, "line 1: not JSON"),
    ("cut.jsonl", GOOD + '{"text": "a", "la', "line 2: not JSON"),
    ("bom16.csv", "text,label\na,1\n".encode("utf-16"), "must be UTF-8 text"),
    ("latin.csv", "text,label\ncaf\xe9,1\n".encode("latin-1"), "must be UTF-8 text"),
    ("semicolon.csv", "text;label\na b;1\n", "fields must be separated by commas, got ';'"),
    ("tab.csv", "text\tlabel\na b\t1\n", "fields must be separated by commas"),
    ("quote.csv", 'text,label\n"a "b" c",1\n', "a quote in it must be doubled"),
    ("open.csv", 'text,label\n"a b,1\nc,0\n', "must stand in quotes"),
    ("ragged.csv", "text,label\na,b,1\n", "line 2: expected 2 fields"),
    ("short.csv", "text,label\na\n", "line 2: expected 2 fields"),
    ("both.csv", "text, or so;label\na b;1\n", "line 2: expected 2 fields. Semicolons in the header do not separate"),
    ("empty.csv", "", "is empty"),
    ("nul.csv", "text,label\na\x00b,\n", "the label must not be empty"),
    ("one.csv", "text,label\na b,1\nc d,1\n", "must have at least 2 different labels, got ['1']"),
    (
        "tab.jsonl",
        '{"text": "a b", "label": "x\\ty"}\n{"text": "c", "label": "z"}\n',
        "line 1: the label must be one line",
    ),
    ("table.parquet", "PAR1", "must be one of .csv, .json, .jsonl"),
]


@pytest.mark.parametrize(("name", "content", "expected"), FILES, ids=[name for name, *_ in FILES])
def test_a_file_that_cannot_be_read_says_where_and_what_to_do(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError) as error:
        load_files(str(path), str(path))
    message = str(error.value)
    assert message.startswith(str(path))
    assert expected in message
    assert len(message) < 600


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=40)


@given(st.lists(TEXTS, min_size=2, max_size=8), st.sampled_from([".csv", ".jsonl"]), st.sampled_from([0, 10**6]))
@settings(deadline=None, max_examples=60)
def test_every_text_comes_back_as_it_was(tmp_path_factory, texts, suffix, length):
    """Line breaks, quotes, separators, byte-order marks and fields as long as documents."""
    texts = [text + "x" * length for text in texts]
    path = tmp_path_factory.mktemp("own") / f"train{suffix}"
    rows = [{"text": text, "label": index % 2} for index, text in enumerate(texts)]
    if suffix == ".csv":
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, ["text", "label"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
        path.write_bytes(file.getvalue().encode())
    else:
        path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    _, splits = load_files(str(path), str(path))
    assert splits["train"]["text"][:] == texts
    assert splits["train"]["label"][:] == [row["label"] for row in rows]


def test_labels_that_are_numbers_are_in_their_order(tmp_path, caplog):
    path = tmp_path / "train.csv"
    path.write_text("text,label\n" + "".join(f"text {label},{label}\n" for label in (10, 2, 1, 0, -3)))
    with caplog.at_level("INFO", "lstsd_hf"):
        task, _ = load_files(str(path), str(path))
    assert task.label_names == ("-3", "0", "1", "2", "10")
    assert "are 5 classes: -3, 0, 1, 2, 10." in caplog.text
