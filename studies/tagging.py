#!/usr/bin/env python
"""Runs the protocol's cell T1, tagging of words; finished runs are skipped.

python -m studies.tagging runs/tagging studies/records/tagging.jsonl [TASK ...]

The folder must have WNUT-17's `wnut17train.conll` and `emerging.dev.conll` (leondz/emerging_entities_17 on GitHub), and
UD English EWT's `en_ewt-ud-dev.conllu` and `en_ewt-ud-test.conllu` (UniversalDependencies/UD_English-EWT).
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    EvalPrediction,
    TrainingArguments,
    set_seed,
)

from lstsd_hf import LSTSDConfig, LSTSDTrainer, NoTeacherConfig, TeacherConfig, TemporalEnsembleConfig
from lstsd_hf.glue.models import resolve_model

NO_LABEL = -100
Sentence = tuple[list[str], list[str]]


@dataclass(frozen=True)
class Task:
    """Words and their tags.

    Attributes:
        files: Those of the training set and of the set that is scored.
        columns: Where words and tags stand.
        has_spans: Whether tags mark spans (BIO), which are scored by F1; otherwise tags are, by accuracy.
    """

    files: tuple[str, str]
    columns: tuple[int, int]
    has_spans: bool = False


TASKS = {
    "wnut17": Task(("wnut17train.conll", "emerging.dev.conll"), (0, 1), has_spans=True),
    "upos": Task(("en_ewt-ud-dev.conllu", "en_ewt-ud-test.conllu"), (1, 3)),
}
PAPER = replace(LSTSDConfig.paper(), mini_generation_epochs=2)
METHODS: dict[str, tuple[int, TeacherConfig]] = {
    "vanilla": (10, NoTeacherConfig()),
    "lstsd": (10, PAPER),
    "vanilla-short": (3, NoTeacherConfig()),
    "lstsd-defaults": (10, LSTSDConfig(mini_generation_epochs=2)),
    "temporal_ensemble": (10, TemporalEnsembleConfig(consistency_weight=6.4)),
}
PLACES = (("upos", 0.2), ("upos", 0.0), ("wnut17", 0.0))
SEEDS = range(1, 4)


def read(path: Path, columns: tuple[int, int]) -> Iterator[Sentence]:
    """The sentences of a file with a word in each line and an empty line between sentences."""
    words, tags = [], []
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        cells = line.split("\t")
        if line.startswith("#") and len(cells) == 1:
            continue
        if not line.strip():
            if words:
                yield words, tags
            words, tags = [], []
        # Of CoNLL-U without the ranges of contracted words and empty nodes.
        elif columns[0] == 0 or cells[0].isdigit():
            words.append(cells[columns[0]])
            tags.append(cells[columns[1]])


def with_noise(sentences: list[Sentence], labels: list[str], rate: float) -> list[Sentence]:
    """The sentences with a share of the tags replaced by another one at random, the same in every run."""
    generator = np.random.default_rng(0)

    def noisy(tag: str) -> str:
        others = [label for label in labels if label != tag]
        return others[generator.integers(len(others))] if generator.random() < rate else tag

    return [(words, [noisy(tag) for tag in tags]) for words, tags in sentences]


def encode(sentences: list[Sentence], labels: list[str], tokenizer: Any) -> list[dict[str, Any]]:
    """Rows in which the first piece of each word has the word's tag."""
    rows = []
    for words, tags in sentences:
        encoding = tokenizer(words, is_split_into_words=True, truncation=True, max_length=128)
        places, previous = [], None
        for word in encoding.word_ids():
            is_first = word is not None and word != previous
            places.append(labels.index(tags[word]) if is_first else NO_LABEL)
            previous = word
        rows.append({**encoding, "labels": places})
    return rows


def spans(tags: list[str]) -> set[tuple[int, int, str]]:
    """The spans in BIO tags; a span of another kind, or after another, begins at an I too."""
    found, start, kind = set(), 0, None
    for position, tag in enumerate([*tags, "O"]):
        mark, _, own = tag.partition("-")
        if kind is not None and (mark != "I" or own != kind):
            found.add((start, position, kind))
            kind = None
        if mark != "O" and kind is None:
            start, kind = position, own
    return found


def span_f1(predicted: list[list[str]], given: list[list[str]]) -> float:
    """F1 of exact spans × 100, over all sentences."""
    pairs = [(spans(ours), spans(theirs)) for ours, theirs in zip(predicted, given, strict=True)]
    hits = sum(len(ours & theirs) for ours, theirs in pairs)
    return 200 * hits / max(1, sum(len(ours) + len(theirs) for ours, theirs in pairs))


def metrics(labels: list[str], has_spans: bool):
    """The `compute_metrics` of a task."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits, given = torch.from_numpy(prediction.predictions), torch.from_numpy(prediction.label_ids)
        mask = given != NO_LABEL
        predicted = logits.argmax(-1)
        scores = {
            "accuracy": 100 * float((predicted == given)[mask].float().mean()),
            "nll": float(torch.nn.functional.cross_entropy(logits[mask].float(), given[mask])),
        }
        if has_spans:
            scores["span_f1"] = span_f1(_tags(predicted, mask, labels), _tags(given, mask, labels))
        return scores

    return compute


def _tags(rows: torch.Tensor, mask: torch.Tensor, labels: list[str]) -> list[list[str]]:
    return [[labels[label] for label in row[own].tolist()] for row, own in zip(rows, mask, strict=True)]


def make_trainer(
    data: Path, folder: Path, place: tuple[str, float], method: str, seed: int, **options: Any
) -> LSTSDTrainer:
    """The trainer of a run; `options` are further ones of the trainer."""
    task = TASKS[place[0]]
    train, scored = (list(read(data / name, task.columns)) for name in task.files)
    labels = sorted({tag for _, tags in train for tag in tags})
    train = with_noise(train, labels, place[1])
    checkpoint = resolve_model("minilm-l3")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    set_seed(seed)
    epochs, teacher = METHODS[method]
    return LSTSDTrainer(
        model=AutoModelForTokenClassification.from_pretrained(checkpoint, num_labels=len(labels)),
        args=TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=64,
            learning_rate=1e-4,
            warmup_steps=0.1,
            seed=seed,
            train_sampling_strategy="group_by_length",
            bf16=True,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="epoch",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=encode(train, labels, tokenizer),
        eval_dataset=encode(scored, labels, tokenizer),
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=metrics(labels, task.has_spans),
        teacher=teacher,
        **options,
    )


def run(data: Path, folder: Path, place: tuple[str, float], method: str, seed: int) -> dict[str, Any]:
    """Trains once, and says how the model of the last epoch scores."""
    trainer, task = make_trainer(data, folder, place, method, seed), TASKS[place[0]]
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    scores = trainer.evaluate()
    return {
        "task": place[0],
        "noise": place[1],
        "method": method,
        "seed": seed,
        "epochs": METHODS[method][0],
        "score": round(scores["eval_span_f1" if task.has_spans else "eval_accuracy"], 4),
        "accuracy": round(scores["eval_accuracy"], 4),
        "nll": round(scores["eval_nll"], 6),
        "tokens": int(sum(label != NO_LABEL for row in trainer.train_dataset for label in row["labels"])),
        "seconds": round(seconds, 1),
    }


def main(data: Path, records: Path, *tasks: str) -> None:
    """Runs what the records lack of some tasks or of all, seed by seed, and appends a line for each run."""
    lines = [json.loads(line) for line in records.read_text().splitlines()] if records.exists() else []
    done = {(line["task"], line["noise"], line["method"], line["seed"]) for line in lines}
    for seed in SEEDS:
        for place in (place for place in PLACES if not tasks or place[0] in tasks):
            for method in METHODS:
                if (*place, method, seed) not in done:
                    line = run(data, data / f"output-{place[0]}", place, method, seed)
                    with records.open("a") as file:
                        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
