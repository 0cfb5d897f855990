import json

import pytest
from datasets import Dataset, DatasetDict

from lstsd_hf.errors import InputError
from lstsd_hf.glue.data import load_files, load_task
from lstsd_hf.glue.synthetic import generate_pairs
from lstsd_hf.glue.tasks import TASKS, get_task

SAMPLES = {
    "rte": (
        "index\tsentence1\tsentence2\tlabel\n",
        ['0\tHe said "no".\tHe spoke.\tentailment\n', "1\tA\u2028B.\tC.\tnot_entailment\n"],
        [
            {"sentence1": 'He said "no".', "sentence2": "He spoke.", "label": 0},
            {"sentence1": "A\u2028B.", "sentence2": "C.", "label": 1},
        ],
    ),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n",
        ['1\t10\t20\t" Yes " , he said\tHe said yes\r\n', "0\t11\t21\tOne\tTwo\r\n"],
        [
            {"sentence1": '" Yes " , he said', "sentence2": "He said yes", "label": 1},
            {"sentence1": "One", "sentence2": "Two", "label": 0},
        ],
    ),
    "sst2": (
        "sentence\tlabel\n",
        ['a " fine " film \t1\n', "dull \t0\n"],
        [{"sentence": 'a " fine " film ', "label": 1}, {"sentence": "dull ", "label": 0}],
    ),
    "cola": (
        "",
        ["gj04\t1\t\tThe sailors rode.\n", "gj04\t0\t*\tSailors the rode.\n"],
        [{"sentence": "The sailors rode.", "label": 1}, {"sentence": "Sailors the rode.", "label": 0}],
    ),
}


def write_glue(folder, name):
    header, lines, _ = SAMPLES[name]
    task_folder = folder / TASKS[name].folder
    task_folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev"):
        (task_folder / f"{split}.tsv").write_text(header + "".join(lines), encoding="utf-8", newline="")
    return task_folder


def message_of(function):
    with pytest.raises(InputError) as error:
        function()
    return str(error.value)


@pytest.mark.parametrize("name", TASKS)
def test_official_layout(tmp_path, name):
    write_glue(tmp_path, name)
    splits = load_task(TASKS[name], str(tmp_path))
    assert splits["train"].to_list() == splits["validation"].to_list() == SAMPLES[name][2]
    assert "test" not in splits


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rte", "index\tsentence1\tsentence2\n0\tA.\tB.\n"),
        ("mrpc", "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t5\t6\tA.\tB.\n"),
        ("sst2", "index\tsentence\n0\tA.\n"),
        ("cola", "index\tsentence\n0\tA.\n"),
    ],
)
def test_unlabelled_test_split(tmp_path, name, content):
    (write_glue(tmp_path, name) / "test.tsv").write_text(content)
    rows = load_task(TASKS[name], str(tmp_path))["test"].to_list()
    assert rows == [dict(zip(TASKS[name].text_columns, ("A.", "B."), strict=False))]


def test_missing_file(tmp_path):
    assert message_of(lambda: load_task(TASKS["rte"], str(tmp_path))) == (
        f"{tmp_path}/RTE/train.tsv does not exist. `data` must be 'hub', 'synthetic' or a "
        f"folder with GLUE's TSV release, got '{tmp_path}'; expected RTE/train.tsv and RTE/dev.tsv in it."
    )


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("rte", "2\tonly one\n", "line 4: expected 4 tab-separated fields, got 2."),
        (
            "rte",
            "2\ta\tb\tmaybe\n",
            "line 4: the label must be one of entailment, not_entailment, got 'maybe'.",
        ),
        ("sst2", "good\t2\n", "line 4: the label must be one of 0, 1, got '2'."),
        ("cola", "gj04\t1\tno sentence\n", "line 3: expected 4 tab-separated fields, got 3."),
        ("mrpc", "1\t2\t3\ta\tb\tc\n", "line 4: expected 5 tab-separated fields, got 6."),
    ],
)
def test_malformed_row_names_file_and_line(tmp_path, name, line, expected):
    path = write_glue(tmp_path, name) / "train.tsv"
    with path.open("a") as file:
        file.write(line)
    message = message_of(lambda: load_task(TASKS[name], str(tmp_path)))
    assert message == f"{path}, {expected}"


def test_wrong_header(tmp_path):
    path = write_glue(tmp_path, "rte") / "train.tsv"
    path.write_text("a\tb\n1\t2\n")
    assert message_of(lambda: load_task(TASKS["rte"], str(tmp_path))) == (
        f"{path}, line 1: the header must name the columns ['sentence1', 'sentence2', 'label'], "
        "['sentence1', 'sentence2', 'label'] missing."
    )


@pytest.mark.parametrize("name", ["rte", "cola"])
def test_empty_split(tmp_path, name):
    path = write_glue(tmp_path, name) / "dev.tsv"
    path.write_text(SAMPLES[name][0])
    assert message_of(lambda: load_task(TASKS[name], str(tmp_path))) == (
        f"{path} is empty: a split must have at least one row."
    )


def test_unknown_task():
    assert message_of(lambda: get_task("qqp")) == (
        "`task` must be one of rte, mrpc, sst2, cola, got 'qqp'. Own data: `--train_file`."
    )


def test_hub_out_of_reach(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr("lstsd_hf.glue.data.load_dataset", fail)
    assert message_of(lambda: load_task(TASKS["rte"], "hub")) == (
        "nyu-mll/glue could not be loaded from the hub (ConnectionError). Ways on: connect to "
        "the internet; point GLUE_DIR or --data at a folder with GLUE's TSV files; use "
        "--train_file and --validation_file; or try --demo, which needs no data."
    )


def test_hub_splits_lose_the_unknown_labels(monkeypatch):
    row = {"sentence1": "A", "sentence2": "B", "idx": 0}
    hub = DatasetDict(
        {
            name: Dataset.from_list([{**row, "label": label}])
            for name, label in (("train", 1), ("validation", 0), ("test", -1))
        }
    )
    calls = []
    monkeypatch.setattr("lstsd_hf.glue.data.load_dataset", lambda *args: calls.append(args) or hub)
    splits = load_task(TASKS["rte"], "hub")
    assert calls == [("nyu-mll/glue", "rte")]
    assert "label" not in splits["test"].column_names
    assert splits["train"]["label"][0] == 1


# ---- One's own files ----


def write_rows(path, rows):
    if path.suffix == ".csv":
        names = list(rows[0])
        lines = [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("labels", [("yes", "no"), (1, 0)])
def test_own_files(tmp_path, suffix, labels):
    rows = [{"text": "fine", "label": labels[0]}, {"text": "bad", "label": labels[1]}]
    train = write_rows(tmp_path / f"train{suffix}", rows)
    dev = write_rows(tmp_path / f"dev{suffix}", rows[1:])
    test = write_rows(tmp_path / f"test{suffix}", [{"text": "what"}])
    task, splits = load_files(train, dev, test)
    assert task.text_columns == ("text",)
    assert task.label_names == tuple(sorted(str(label) for label in labels))
    assert splits["train"].to_list() == [{"text": "fine", "label": 1}, {"text": "bad", "label": 0}]
    assert splits["validation"].to_list() == [{"text": "bad", "label": 0}]
    assert splits["test"].to_list() == [{"text": "what"}]


def test_bad_own_files(tmp_path):
    good = write_rows(tmp_path / "good.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": 1}])
    other = write_rows(tmp_path / "other.jsonl", [{"text": "a", "label": 0}, {"text": "c", "label": 7}])
    assert message_of(lambda: load_files(good, other)) == f"{other}, line 2: the label must be one of 0, 1, got '7'."
    missing = str(tmp_path / "none.csv")
    assert message_of(lambda: load_files(good, missing)) == f"{missing} does not exist. Check the path."
    wrong = write_rows(tmp_path / "data.txt", [{"text": "a"}])
    assert message_of(lambda: load_files(wrong, good)) == (
        f"{wrong} must be one of .csv, .json, .jsonl, got the suffix '.txt'."
    )
    unlabelled = write_rows(tmp_path / "unlabelled.jsonl", [{"text": "a"}])
    assert message_of(lambda: load_files(good, unlabelled)) == (
        f"{unlabelled}, line 1: columns ['label'] missing, got ['text']."
    )
    single = write_rows(tmp_path / "single.jsonl", [{"text": "a", "label": 3}])
    assert message_of(lambda: load_files(single, good)) == f"{single} must have at least 2 different labels, got ['3']."
    empty = tmp_path / "empty.csv"
    empty.write_text("text,label\n")
    assert message_of(lambda: load_files(str(empty), good)) == f"{empty} is empty: a split must have at least one row."
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a", "label": 0}\n{"text": \n')
    assert message_of(lambda: load_files(str(broken), good)).startswith(f"{broken}, line 2: not JSON: ")
    ragged = tmp_path / "ragged.csv"
    ragged.write_text("text,label\na,0\nb,1,2\n")
    assert message_of(lambda: load_files(str(ragged), good)) == f"{ragged}, line 3: expected 2 fields."
    nameless = write_rows(tmp_path / "null.jsonl", [{"text": None, "label": 0}])
    assert message_of(lambda: load_files(good, nameless)) == (
        f"{nameless}, line 1: columns ['text'] missing, got ['label', 'text']."
    )
    latin = tmp_path / "latin.csv"
    latin.write_bytes("text,label\ncafé,0\n".encode("latin-1"))
    assert message_of(lambda: load_files(str(latin), good)).startswith(f"{latin} must be UTF-8 text: ")
    quoted = tmp_path / "quoted.csv"
    quoted.write_text('text,label\n"a ""quoted"", text",0\nNA,1\n')
    assert load_files(str(quoted), good)[1]["train"]["text"][:] == ['a "quoted", text', "NA"]


# ---- Generated pairs ----


def test_generated_pairs_are_fixed_distinct_and_balanced():
    first, second = generate_pairs(), generate_pairs()
    assert first == second
    assert generate_pairs(seed=1) != first
    rows = first["train"] + first["validation"]
    assert len({(row["sentence1"], row["sentence2"]) for row in rows}) == len(rows) == 560
    for split in first.values():
        assert abs(sum(row["label"] for row in split) / len(split) - 0.5) < 0.01
    assert max(len(row["sentence1"].split()) for row in rows) < 15


def test_generated_labels_by_hand():
    labels = {(row["sentence1"], row["sentence2"]): row["label"] for row in generate_pairs(4000, 10)["train"]}
    numbers = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    checked = 0
    for (premise, hypothesis), label in labels.items():
        if " at least " in hypothesis:
            seen = next(numbers.index(word) for word in premise.split() if word in numbers)
            claimed = numbers.index(hypothesis.split(" at least ")[1].split()[0])
            assert label == (0 if seen >= claimed else 1)
            checked += 1
        elif " did not " in premise and " did not " not in hypothesis:
            assert label == 1
            checked += 1
    assert checked > 1000
