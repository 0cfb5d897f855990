import pytest
from datasets import Dataset, DatasetDict

from lstsd_hf.errors import InputError
from lstsd_hf.glue.data import load_task
from lstsd_hf.glue.own_files import load_files
from lstsd_hf.glue.synthetic import generate_pairs
from lstsd_hf.glue.tasks import TASKS, get_task
from tests.helpers import write_rows

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
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n",
        ["0\tnews\tf\t2012\t1\tnone\tnone\tA.\tB.\t5.000\n", "1\tnews\tf\t2012\t2\tnone\tnone\tC.\tD.\t0.25\n"],
        [
            {"sentence1": "A.", "sentence2": "B.", "label": 5.0},
            {"sentence1": "C.", "sentence2": "D.", "label": 0.25},
        ],
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n",
        # The release has rows that break off.
        ["0\t1\t2\tHow?\tWhy?\t0\n", "1\t3\t4\tWho?\n", "2\t5\t6\tWho?\tWho is it?\t1\n"],
        [
            {"question1": "How?", "question2": "Why?", "label": 0},
            {"question1": "Who?", "question2": "Who is it?", "label": 1},
        ],
    ),
    "mnli": (
        "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n",
        ["0\tfiction\tA.\tB.\tneutral\tcontradiction\n", "1\ttravel\tC.\tD.\tneutral\tentailment\n"],
        [{"premise": "A.", "hypothesis": "B.", "label": 2}, {"premise": "C.", "hypothesis": "D.", "label": 0}],
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel\n",
        ["0\tWho?\tHe.\tentailment\n", "1\tWhen?\tHe.\tnot_entailment\n"],
        [
            {"question": "Who?", "sentence": "He.", "label": 0},
            {"question": "When?", "sentence": "He.", "label": 1},
        ],
    ),
    "wnli": (
        "index\tsentence1\tsentence2\tlabel\n",
        ["0\tA.\tB.\t1\n", "1\tC.\tD.\t0\n"],
        [{"sentence1": "A.", "sentence2": "B.", "label": 1}, {"sentence1": "C.", "sentence2": "D.", "label": 0}],
    ),
}


def write_glue(folder, name):
    header, lines, _ = SAMPLES[name]
    task_folder = folder / TASKS[name].folder
    task_folder.mkdir(parents=True, exist_ok=True)
    for split in [stem for name, stem in TASKS[name].tsv_files.items() if not name.startswith("test")]:
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
    labelled = {"train", "validation", *(["validation_mismatched"] if name == "mnli" else [])}
    assert set(splits) == labelled
    for rows in splits.values():
        assert rows.to_list() == SAMPLES[name][2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rte", "index\tsentence1\tsentence2\n0\tA.\tB.\n"),
        ("mrpc", "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t5\t6\tA.\tB.\n"),
        ("sst2", "index\tsentence\n0\tA.\n"),
        ("cola", "index\tsentence\n0\tA.\n"),
        ("stsb", "index\tsource1\tsentence1\tsentence2\n0\tnone\tA.\tB.\n"),
        ("qqp", "id\tquestion1\tquestion2\n0\tA.\tB.\n"),
        ("mnli", "index\tgenre\tsentence1\tsentence2\n0\tfiction\tA.\tB.\n"),
        ("qnli", "index\tquestion\tsentence\n0\tA.\tB.\n"),
        ("wnli", "index\tsentence1\tsentence2\n0\tA.\tB.\n"),
    ],
)
def test_unlabelled_test_split(tmp_path, name, content):
    (write_glue(tmp_path, name) / f"{TASKS[name].tsv_files['test']}.tsv").write_text(content)
    rows = load_task(TASKS[name], str(tmp_path))["test"].to_list()
    assert rows == [dict(zip(TASKS[name].text_columns, ("A.", "B."), strict=False))]


def test_a_broken_row_of_a_test_split_is_not_left_out(tmp_path):
    """The submission would answer other questions from there on."""
    path = write_glue(tmp_path, "qqp") / "test.tsv"
    path.write_text("id\tquestion1\tquestion2\n0\tA.\tB.\n1\tC.\n")
    with pytest.raises(InputError, match="line 3: expected 3 tab-separated fields, got 2"):
        load_task(TASKS["qqp"], str(tmp_path))


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
        ("qqp", "3\t7\t8\ta\tb\t1\tc\n", "line 5: expected 6 tab-separated fields, got 7."),
        (
            "stsb",
            "2\tnews\tf\t2012\t3\tnone\tnone\tA.\tB.\tnan\n",
            "line 4: the label must be a finite number, got 'nan'.",
        ),
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
    assert message_of(lambda: get_task("ax")) == (
        "`task` must be one of rte, mrpc, sst2, cola, stsb, qqp, mnli, qnli, wnli, got 'ax'. Own data: `--train_file`."
    )


def test_hub_out_of_reach(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr("lstsd_hf.glue.data.load_dataset", fail)
    assert message_of(lambda: load_task(TASKS["rte"], "hub")) == (
        "nyu-mll/glue could not be loaded from the hub (ConnectionError). Ways on: connect to "
        "the internet; point GLUE_DIR or --data at a folder with GLUE's TSV files; use "
        "--train_file and --validation_file; or try --task rte --demo, which needs no data."
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


def test_hub_names_of_mnli(monkeypatch):
    rows = Dataset.from_list([{"premise": "A", "hypothesis": "B", "label": 0, "idx": 0}])
    splits = ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")
    monkeypatch.setattr("lstsd_hf.glue.data.load_dataset", lambda *args: DatasetDict(dict.fromkeys(splits, rows)))
    found = load_task(TASKS["mnli"], "hub")
    assert list(found) == ["train", "validation", "validation_mismatched", "test", "test_mismatched"]
    assert ["label" in rows.column_names for rows in found.values()] == [True, True, True, False, False]


# ---- One's own files ----


def test_fractions_are_numbers_to_be_met(tmp_path):
    train = write_rows(tmp_path / "train.jsonl", [{"text": "a", "label": 1.5}, {"text": "b", "label": -0.25}])
    other = write_rows(tmp_path / "dev.jsonl", [{"text": "c", "label": 3}])
    task, splits = load_files(train, other)
    assert task.is_regression
    assert (task.label_names, task.num_outputs, task.metrics) == ((), 1, ("pearson", "spearmanr"))
    assert (splits["train"]["label"][:], splits["validation"]["label"][:]) == ([1.5, -0.25], [3.0])
    whole = write_rows(tmp_path / "whole.jsonl", [{"text": "a", "label": 1.0}, {"text": "b", "label": 0.0}])
    assert load_files(whole, whole)[0].label_names == ("0", "1")
    mixed = write_rows(tmp_path / "mixed.jsonl", [{"text": "a", "label": 1e-05}, {"text": "b", "label": 2}])
    assert load_files(mixed, mixed)[0].is_regression
    words = write_rows(tmp_path / "words.jsonl", [{"text": "c", "label": "high"}])
    assert message_of(lambda: load_files(train, words)) == (
        f"{words}, line 1: the label must be a finite number, got 'high'."
    )
    gap = write_rows(tmp_path / "gap.jsonl", [{"text": "a", "label": label} for label in (1, 1.5, 2, "NA")])
    assert message_of(lambda: load_files(gap, gap)) == (
        f"{gap}, line 4: the label must be a number as others are (1.5), got 'NA'. Leave the row out, or label it; "
        "classes must not be named by fractions."
    )
    # Submissions keep small ones, and what GLUE wants.
    assert (task.spelled_label(1.25e-5), TASKS["stsb"].spelled_label(2.34567)) == ("1.25e-05", "2.346")


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


def test_labels_and_columns_of_own_files_are_not_misread(tmp_path, caplog):
    caplog.set_level("INFO")
    rows = [{"label": label, "text": "a", "pair": "b", "source": "web", "idx": 3} for label in (1, 1.0, "01", "2.5x")]
    path = write_rows(tmp_path / "train.jsonl", rows)
    task, splits = load_files(path, path)
    assert task.label_names == ("01", "1", "2.5x")
    assert splits["train"]["label"][:] == [1, 1, 0, 2]
    reason = "not named as a text"
    noted = f"Left out: pair ({reason}), source ({reason}), idx ({reason})."
    assert f"Texts of {path}: text. {noted}" in caplog.messages
    # Python would take them for 11, 11 and 100.
    names = write_rows(tmp_path / "names.csv", [{"text": "a", "label": label} for label in ("1_1", "11", "1E2")])
    assert load_files(names, names)[0].label_names == ("11", "1E2", "1_1")
    for label in ("", "NaN", float("nan")):
        path = write_rows(tmp_path / "bad.jsonl", [{"text": "a", "label": 1.5}, {"text": "b", "label": label}])
        assert message_of(lambda path=path: load_files(path, path)).startswith(
            f"{path}, line 2: the label must not be empty, got {label!r}."
        )


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
        f"{unlabelled}, line 1: columns ['label'] missing, got ['text']. Rename or add them."
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
    twice = tmp_path / "twice.csv"
    twice.write_text("label,text,text\n0,a,b\n")
    assert message_of(lambda: load_files(str(twice), good)) == (
        f"{twice}, line 1: the header must name each column once, got ['label', 'text', 'text']."
    )
    nameless = write_rows(tmp_path / "null.jsonl", [{"text": None, "label": 0}])
    assert message_of(lambda: load_files(good, nameless)) == (
        f"{nameless}, line 1: `text` must have a value, got null. Leave the row out, or write one."
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
