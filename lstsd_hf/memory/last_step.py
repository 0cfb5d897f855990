"""What a method remembers of the last optimizer step only."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..distributed import gather_objects, num_processes, rank
from ..errors import InputError


class LastStepMemory:
    """Named tensors of each micro-batch of the last optimizer step, and of the step that runs, on this process.

    Attributes:
        previous: Those of the last step.
        current: Those of the step that runs, so far.

    Examples:
        >>> memory = LastStepMemory()
        >>> memory.add({"logits": torch.zeros(4, 2)})
        >>> memory.partner is None, memory.end_step(), list(memory.partner)
        (True, None, ['logits'])
    """

    def __init__(self):
        self.previous: list[dict[str, Tensor]] = []
        self.current: list[dict[str, Tensor]] = []

    @property
    def partner(self) -> dict[str, Tensor] | None:
        """Those of the last step's micro-batch in the place of the next one of this step; `None` if there is none."""
        position = len(self.current)
        return self.previous[position] if position < len(self.previous) else None

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Remembers a micro-batch of the step that runs."""
        self.current.append({name: value.detach() for name, value in tensors.items()})

    def end_step(self) -> None:
        """The step that runs becomes the last one."""
        self.previous, self.current = self.current, []

    def state_dict(self) -> dict[str, Any]:
        """What all processes remember; every process must call it."""
        state: dict[str, Any] = {"num_processes": num_processes()}
        mine = [{name: value.cpu() for name, value in item.items()} for item in self.previous]
        for process, items in enumerate(gather_objects(mine)):
            for position, item in enumerate(items):
                state |= {f"{process}.{position}.{name}": value for name, value in item.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str) -> None:
        """Takes over what `state_dict` returned.

        Args:
            state: What it returned; other entries are passed over.
            device: Where to keep the tensors.

        Raises:
            InputError: If it was made on another number of processes.
        """
        if state["num_processes"] != num_processes():
            raise InputError(
                f"`num_processes` must be {state['num_processes']} to resume this method, got {num_processes()}: each "
                "process goes on with the batch that it had before. Resume on as many processes, or start a new run."
            )
        items: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            process, _, rest = key.partition(".")
            if rest and int(process) == rank():
                position, _, name = rest.partition(".")
                items.setdefault(int(position), {})[name] = torch.as_tensor(value).to(device)
        self.previous = [item for _, item in sorted(items.items())]
