"""Throughput of a training step fed by the loader, against the same step on batches that lie ready on the device.

    OMP_NUM_THREADS=1 python benchmarks/image_loader.py      # CPU, or the GPU if there is one

ResNet-20, batch 128, pictures of CIFAR's size with random pixels, crops and flips. Both take turns in short blocks;
the figure is the ratio of their median block times.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import default_data_collator

from lstsd_hf.images import Images
from lstsd_hf.models import CifarResNetConfig, CifarResNetForImageClassification


def endless(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    while True:
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="in a block")
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (10000, 3, 32, 32), dtype=np.uint8)
    data = Images(pixels, [0] * len(pixels), [0.5] * 3, [0.25] * 3, crop_padding=4, flip=True)
    loader = DataLoader(
        data, batch_size=128, shuffle=True, drop_last=True, collate_fn=default_data_collator, num_workers=args.workers
    )
    model = CifarResNetForImageClassification(CifarResNetConfig(num_labels=100)).to(device)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)

    def step(batch: dict[str, torch.Tensor]) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(**{name: value.to(device) for name, value in batch.items()}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    loaded = endless(loader)
    ready = [{name: value.to(device) for name, value in next(loaded).items()} for _ in range(args.steps)]
    seconds: dict[str, list[float]] = {"loaded": [], "ready": []}
    for block in range(args.blocks + 1):
        for name, batches in (("loaded", loaded), ("ready", iter(ready))):
            start = time.perf_counter()
            for _ in range(args.steps):
                step(next(batches))
            if device.type == "cuda":
                torch.cuda.synchronize()
            if block:  # the first one warms up
                seconds[name].append((time.perf_counter() - start) / args.steps)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        json.dumps(
            {
                "share_of_throughput": round(medians["ready"] / medians["loaded"], 4),
                "ms_a_step": {name: round(1e3 * value, 2) for name, value in medians.items()},
                "blocks": args.blocks,
                "workers": args.workers,
                "threads": torch.get_num_threads(),
                "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
                "torch": torch.__version__,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
