"""Reading, noise and scores of the study of taggers."""

import pytest

from studies.tagging import TASKS, read, span_f1, spans, with_noise
from studies.tagging_table import PLACES
from tests.helpers import ROOT


def test_spans_of_bio_tags():
    assert spans(["B-a", "I-a", "O", "I-b", "B-b", "I-a"]) == {(0, 2, "a"), (3, 4, "b"), (4, 5, "b"), (5, 6, "a")}
    assert spans(["O", "O"]) == set()


def test_f1_of_exact_spans():
    """3 predicted, 4 given, 2 of them the same: precision 2/3, recall 1/2."""
    given = [["B-a", "I-a", "O", "B-b"], ["B-a", "O", "B-b", "I-b"]]
    predicted = [["B-a", "I-a", "O", "O"], ["B-a", "O", "B-b", "O"]]
    assert span_f1(predicted, given) == pytest.approx(100 * 2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert span_f1([["O"]], [["O"]]) == 0


def test_files_of_both_kinds(tmp_path):
    (tmp_path / "a.conll").write_text("New\tB-loc\nYork\tI-loc\n\t\n#tag\tO\n")
    assert list(read(tmp_path / "a.conll", TASKS["wnut17"].columns)) == [
        (["New", "York"], ["B-loc", "I-loc"]),
        (["#tag"], ["O"]),
    ]
    lines = ["# text = don't", "1-2\tdon't\t_\t_", "1\tdo\tdo\tAUX", "2\tn't\tnot\tPART", "2.1\tx\tx\tX", ""]
    (tmp_path / "b.conllu").write_text("\n".join(lines))
    assert list(read(tmp_path / "b.conllu", TASKS["upos"].columns)) == [(["do", "n't"], ["AUX", "PART"])]


def test_noise_is_the_same_in_every_run():
    sentences = [(["w"] * 500, ["a", "b"] * 250)] * 2
    first, second = with_noise(sentences, ["a", "b", "c"], 0.2), with_noise(sentences, ["a", "b", "c"], 0.2)
    assert first == second
    changed = [
        ours != theirs
        for noisy, clean in zip(first, sentences, strict=True)
        for ours, theirs in zip(noisy[1], clean[1], strict=True)
    ]
    assert 150 < sum(changed) < 250
    assert with_noise(sentences, ["a", "b", "c"], 0.0) == sentences


def test_the_table_names_what_is_run():
    assert {task for task, _ in PLACES} == set(TASKS)
    assert "| WNUT-17, entities, F1 | LSTSD |" in (ROOT / "docs" / "results.md").read_text()
