"""A second set of a model's weights, run through the model itself."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError
from .student import Student


class ModelCopy:
    """What training changes in a model (trainable parameters and buffers), as it was at another moment.

    Frozen parameters are shared with the model: under LoRA a copy is as small as the adapters. Floating-point tensors
    are held in at least fp32, for an average over many steps would stand still in half precision.

    Args:
        tensors: Parameters and buffers by name.

    Attributes:
        tensors: The same, without gradient.

    Examples:
        >>> average = ModelCopy.of(model)
        >>> average.average(model, decay=0.9)
        >>> average.load_into(model)
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = dict(tensors)

    @classmethod
    def of(cls, model: nn.Module) -> "ModelCopy":
        """A copy of a model as it is now."""
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        return cls({name: _own(value) for name, value in _all_tensors(model) if name not in frozen})

    @torch.no_grad()
    def average(self, model: nn.Module, decay: float) -> None:
        """Moves each parameter: `copy <- decay · copy + (1 - decay) · model`. Buffers stay.

        A parameter that has become trainable since the copy was made joins it as it is now.

        Args:
            model: The model that the copy was made of.
            decay: Weight of the old value, from 0 to 1.
        """
        for name, parameter in model.named_parameters():
            if name in self.tensors:
                self.tensors[name].lerp_(parameter.to(self.tensors[name].dtype), 1.0 - decay)
            elif parameter.requires_grad:
                self.tensors[name] = _own(parameter)

    def check_covers(self, model: nn.Module) -> None:
        """Raises an `InputError` if a parameter has become trainable since, whose old value will be lost."""
        check_covers(self.tensors, model)

    @torch.no_grad()
    def hidden_states(self, student: Student, inputs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """The hidden states of the student's model with these weights, in evaluation mode; see `Student`."""
        with self._in_mode(student.model, training=False) as tensors:
            return student.hidden_states(student.model, inputs, tensors)

    @torch.no_grad()
    def forward(self, student: Student, inputs: Mapping[str, Any], training: bool = False) -> Tensor:
        """Runs the student's model with these weights.

        Args:
            student: The model's view.
            inputs: The model's inputs.
            training: Run in training mode (with dropout) instead of evaluation mode.

        Returns:
            Logits `(batch_size, num_labels)`, without gradient.
        """
        with self._in_mode(student.model, training) as tensors:
            return student.forward(inputs, tensors)

    @contextmanager
    def _in_mode(self, model: nn.Module, training: bool) -> Iterator[dict[str, Tensor]]:
        """These weights as the model takes them, while it is in a mode."""
        was_training = model.training
        model.train(training)
        try:
            yield {name: self.tensors[name].to(own.dtype) for name, own in _all_tensors(model) if name in self.tensors}
        finally:
            model.train(was_training)

    @torch.no_grad()
    def load_into(self, model: nn.Module) -> None:
        """Overwrites a model's weights with these, for saving or serving it."""
        for name, own in _all_tensors(model):
            if name in self.tensors:
                own.copy_(self.tensors[name])

    def to(self, device: torch.device | str) -> "ModelCopy":
        """The same on another device."""
        return type(self)({name: tensor.to(device) for name, tensor in self.tensors.items()})


def check_covers(held: Collection[str], model: nn.Module) -> None:
    """Raises an `InputError` if a parameter of a model is trained that a snapshot of some others does not hold.

    Args:
        held: Their names.
        model: The model.
    """
    missing = [name for name, own in model.named_parameters() if own.requires_grad and name not in held]
    if missing:
        raise InputError(
            f"A snapshot must hold all parameters that are trained, lacks {len(missing)} that were frozen when it "
            f"was taken, such as `{missing[0]}`. Unfreeze them before training, or choose another method."
        )


def _all_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _own(tensor: Tensor) -> Tensor:
    """A copy of at least fp32. It is contiguous, as a saved one is: other strides may be computed with otherwise."""
    dtype = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
    return tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
