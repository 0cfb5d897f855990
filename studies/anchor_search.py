#!/usr/bin/env python
"""The search for `anchored`, on slices of the training splits: each variant that was tried, with its scores.

A quarter of a training split is held out with its true labels; the rest is trained on, with labels as noisy as asked.
Several seeds of A1's small network are trained side by side, so that a cell takes seconds. Lines go to
records/anchor_search.jsonl; what is there is not run again.

GLUE_DIR=... python -m studies.anchor_search follow-0.9 anchored
GLUE_DIR=... python -m studies.anchor_search follow-0.9 follow-0.5 --epochs 10 60    # does the length matter?
"""

import argparse
import itertools
import json
import math
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import matthews_corrcoef
from torch import Tensor
from torch.nn.functional import cross_entropy

from lstsd_hf.glue import cli
from lstsd_hf.runner.noise import NOISE_KINDS

from .analysis import records_file
from .anchor_variants import CONTROLS, VARIANTS, Anchored, Slice, Vanilla, epochs_of
from .commands import DATA, MLP

RECORDS = records_file("anchor_search.jsonl")
HIDDEN, DROPOUT, BATCH, RATE = 256, 0.1, 32, 1e-3
CELLS = (
    *(("sst2", 0.0), ("sst2", 0.2), ("sst2", 0.4), ("mrpc", 0.0), ("mrpc", 0.2), ("cola", 0.0), ("cola", 0.2)),
    *(("trec", 0.0), ("trec", 0.2), ("trec", 0.4)),
)
# The protocol's cells for other lengths, and TREC-6 with right labels.
LENGTHS_CELLS = (("sst2", 0.2), ("mrpc", 0.0), ("cola", 0.0), ("trec", 0.0), ("trec", 0.2))


@cache
def features(task: str) -> tuple[Tensor, Tensor]:
    """What the frozen encoder says of a training split, `(num_rows, feature_size)`, and the labels."""
    command = [*DATA.get(task, f"--task {task}").split(), *MLP.split(), "--method", "vanilla", "--use_cpu", "True"]
    parsed = cli.parse(command)
    prepared = cli.plan(parsed)[0].run.prepare(Path(parsed.run.cache_dir))
    rows = prepared.splits["train"]
    return torch.stack([rows[index]["features"] for index in range(len(rows))]).float(), torch.tensor(rows.labels)


def slice_of(task: str, rate: float, kind: str = NOISE_KINDS[0]) -> Slice:
    """A quarter of a training split held out, and labels replaced in the rest."""
    inputs, labels = features(task)
    order = torch.tensor(np.random.default_rng(100).permutation(len(inputs)))
    held_out, rows = order[: len(order) // 4], order[len(order) // 4 :]
    num_labels, given = int(labels.max()) + 1, labels[rows].clone()
    generator = np.random.default_rng(0)
    wrong = generator.choice(len(rows), round(rate * len(rows)), replace=False)
    shifts = torch.tensor(generator.integers(1, num_labels, len(wrong))) if kind == NOISE_KINDS[0] else 1
    given[wrong] = (given[wrong] + shifts) % num_labels
    return Slice(inputs[rows], given, inputs[held_out], labels[held_out], num_labels)


def train(data: Slice, method: Vanilla, seeds: int, epochs: int) -> Tensor:
    """Trains the small network with several seeds; its logits for the held-out part `(num_seeds, num_held_out, …)`."""
    generator = torch.Generator().manual_seed(1007)
    count, size = data.inputs.shape

    def parameter(*shape: int, fan_in: int) -> Tensor:
        return ((torch.rand(seeds, *shape, generator=generator) * 2 - 1) / math.sqrt(fan_in)).requires_grad_()

    layers = [parameter(size, HIDDEN, fan_in=size), parameter(1, HIDDEN, fan_in=size)]
    layers += [parameter(HIDDEN, data.num_labels, fan_in=HIDDEN), parameter(1, data.num_labels, fan_in=HIDDEN)]
    optimizer = torch.optim.AdamW(layers, lr=RATE, weight_decay=0.0, fused=True)
    steps_per_epoch = math.ceil(count / BATCH)

    def dropped(values: Tensor) -> Tensor:
        return values * (torch.rand(values.shape, generator=generator) >= DROPOUT) / (1 - DROPOUT)

    def logits_of(inputs: Tensor, *, trains: bool) -> Tensor:
        hidden = torch.relu(torch.baddbmm(layers[1], dropped(inputs) if trains else inputs, layers[0]))
        return torch.baddbmm(layers[3], dropped(hidden) if trains else hidden, layers[2])

    method.start(seeds, data)
    step = 0
    for epoch in range(epochs):
        method.epoch_begin(epoch)
        order = torch.stack([torch.randperm(count, generator=generator) for _ in range(seeds)])
        for start in range(0, count, BATCH):
            rows = order[:, start : start + BATCH]
            factors = method.rates(step, steps_per_epoch * epochs, steps_per_epoch)
            optimizer.param_groups[0]["lr"] = RATE * float(factors.max())
            logits = logits_of(data.inputs[rows], trains=True)
            loss = method.loss(rows, logits, epoch)
            optimizer.zero_grad()
            loss.sum().backward()
            method.observe(rows, logits.detach())
            # Each seed's gradient has a norm of at most 1.
            norms = torch.sqrt(sum(layer.grad.square().flatten(1).sum(1) for layer in layers))
            for layer in layers:
                layer.grad.mul_((1 / (norms + 1e-6)).clamp(max=1)[:, None, None])
            differ = bool(factors.min() < factors.max())
            before = [layer.detach().clone() for layer in layers] if differ else []
            optimizer.step()
            if differ:
                with torch.no_grad():
                    for layer, old in zip(layers, before, strict=True):
                        layer.lerp_(old, 1 - (factors / factors.max())[:, None, None])
            step += 1
    with torch.no_grad():
        return logits_of(data.held_out.expand(seeds, -1, -1), trains=False)


def scored(task: str, logits: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """Score in percent and NLL of each seed."""
    predicted = logits.argmax(-1)
    if task == "cola":
        scores = [100 * matthews_corrcoef(labels, own) for own in predicted]
    else:
        scores = (100 * (predicted == labels).float().mean(-1)).tolist()
    nll = cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none").view(len(logits), -1)
    return {"score": [round(value, 2) for value in scores], "nll": [round(value, 4) for value in nll.mean(1).tolist()]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=[*CONTROLS, *VARIANTS], help="by name; all by default")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, nargs="+", help="other lengths, on fewer slices")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.exists() else []
    done = {(line["variant"], line["task"], line["noise"], line["epochs"]) for line in lines}
    cells = LENGTHS_CELLS if options.epochs else CELLS
    for name, (task, rate), length in itertools.product(options.variants, cells, options.epochs or [None]):
        epochs = length or epochs_of(name)
        if (name, task, rate, epochs) in done:
            continue
        method = CONTROLS[name][0]() if name in CONTROLS else Anchored(task, VARIANTS[name])
        data = slice_of(task, rate)
        found = scored(task, train(data, method, options.seeds, epochs), data.true)
        line = {"variant": name, "options": asdict(VARIANTS[name]) if name in VARIANTS else {}, "task": task}
        line |= {"noise": rate, "epochs": epochs, "seeds": options.seeds, **found, **method.notes()}
        with RECORDS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{name:30} {task} {rate}: {np.mean(found['score']):.2f}, NLL {np.mean(found['nll']):.3f}", flush=True)


if __name__ == "__main__":
    main()
