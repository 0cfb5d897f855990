"""Run by `test_fsdp.py` under torchrun: FSDP over gloo, on the CPU."""

import functools
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

from lstsd_hf import METHODS
from lstsd_hf.errors import InputError
from tests.distributed import script
from tests.distributed.script import against_stock, arguments, same_global_batch, train_method
from tests.helpers import active, freeze_what_is_there


def shard_on_cpus() -> None:
    """Has accelerate shard where it would silently not: torch can without a GPU, accelerate does not ask it to."""
    start = AcceleratorState.__init__

    def with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
        start(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = with_fsdp


def main(folder: Path) -> None:
    shard_on_cpus()
    script.arguments = functools.partial(
        arguments,
        fsdp="full_shard",
        fsdp_config={"fsdp_version": 2, "transformer_layer_cls_to_wrap": ["BertLayer"]},
    )
    results = {}
    for name, config_class in METHODS.items():
        config = active(config_class)
        if config.build().runs_model:
            try:
                same_global_batch(folder / name, config)
            except InputError as error:
                results[f"refused-{name}"] = str(error)
            continue
        results[f"stock-{name}"] = against_stock(folder / "stock", config_class.neutral())
        results[f"worlds-{name}"] = same_global_batch(folder / f"worlds-{name}", config)
        results[f"method-{name}"] = [
            train_method(folder / name, config),
            *(train_method(folder / name, config, str(folder / name / f"checkpoint-{step}")) for step in (5, 4)),
        ]
    results["is_sharded"] = all(isinstance(value, DTensor) for value in results["worlds-lstsd"]["weights"].values())
    results = tree_map(lambda value: value.full_tensor() if isinstance(value, DTensor) else value, results)
    torch.save(results, folder / f"rank{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    freeze_what_is_there()
    main(Path(sys.argv[1]))
