"""The model being trained, as a teacher may use it: whole, without the wrappers of distributed training."""

import copy
import functools
import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from .encoder_decoder import generates_target, with_decoder_inputs
from .errors import InputError, noting
from .fingerprint import random_state_put_back
from .label_errors import without_augmentation
from .pixels import PixelStatistics

_FORWARD = (
    "The method runs {} apart from the training step, without labels. Let its `forward` do without them, or choose a "
    "method that does not run it, such as lstsd."
)


class Student:
    """A view of a Trainer's model and training set, for teachers that run the model beside the training forward.

    Forwards go through the bare module, under the precision that training uses: inside DistributedDataParallel a second
    forward before the backward would overwrite buffers that the first one still needs, while gradients of the bare
    module are reduced with the others.

    Args:
        trainer: The `transformers.Trainer`.

    Examples:
        >>> student = Student(LSTSDTrainer(model=model, args=args, train_dataset=data))
        >>> student.forward({"input_ids": torch.tensor([[3, 1, 4]])}).shape
        torch.Size([1, 2])
    """

    def __init__(self, trainer: Any):
        self._trainer = trainer
        self._wrapped: nn.Module | None = None

    @property
    def model(self) -> nn.Module:
        """The bare module, on its device, without the wrappers of `torch.compile` and distributed training."""
        wrapped = self._trainer.model
        if wrapped is not self._wrapped:
            self._wrapped, self._model = wrapped, extract_model_from_parallel(wrapped, keep_torch_compile=False)
        return self._model

    @property
    def output_dir(self) -> Path:
        """Where the run keeps its files."""
        return Path(self._trainer.args.output_dir)

    @property
    def writes_files(self) -> bool:
        """Whether this process is one that writes files."""
        return self._trainer.args.should_save

    @property
    def step_was_skipped(self) -> bool:
        """Whether the last optimizer step did not happen, because of an overflow in mixed precision."""
        return self._trainer.accelerator.optimizer_step_was_skipped

    @property
    def train_dataset(self) -> Any:
        """The training set as the user gave it."""
        return self._trainer.train_dataset

    @property
    def processing_class(self) -> Any:
        """The trainer's tokenizer or processor, or `None`."""
        return self._trainer.processing_class

    @property
    def label_names(self) -> list[str]:
        """The trainer's names of the labels."""
        return list(self._trainer.label_names or ())

    @property
    def takes_pictures(self) -> bool:
        """Whether the model's input are pixels."""
        return getattr(self.model, "main_input_name", None) == "pixel_values"

    @property
    def pixel_statistics(self) -> PixelStatistics | None:
        """What the model's pixels are normalised with, if it takes any and this is known."""
        if not self.takes_pictures:
            return None
        return PixelStatistics.of(getattr(self.model, "config", None), self.processing_class)

    @property
    def generates_target(self) -> bool:
        """Whether the model's labels are the tokens of a target, and not of its inputs."""
        return generates_target(self.model)

    @property
    def class_names(self) -> list[str] | None:
        """The names of the labels in the model's config, if it has them."""
        names = getattr(getattr(self.model, "config", None), "id2label", None)
        return [str(names[label]) for label in sorted(names)] if names else None

    def wait_for_everyone(self) -> None:
        """Returns when every process has arrived here."""
        self._trainer.accelerator.wait_for_everyone()

    @property
    def precision(self) -> str:
        """Of the autocast that the models are run under: "no", "bf16" or "fp16"."""
        return self._trainer.accelerator.mixed_precision

    def training_texts(self) -> list[list[str]] | None:
        """Reads the columns of text of the training set, one or two; `None` if it has none."""
        return self._trainer.training_texts()

    @property
    def cache_dir(self) -> Path:
        """A folder for what other runs can use too."""
        return Path(self._trainer.cache_dir)

    def forward(self, inputs: Mapping[str, Any], tensors: dict[str, Tensor] | None = None) -> Tensor:
        """Runs the model, in the mode (training or evaluation) that it is in.

        Args:
            inputs: The model's inputs; labels, and what the model does not take, are left out.
            tensors: Parameters and buffers to use instead of the model's own, by name.

        Returns:
            Logits `(batch_size, num_labels)`, at least fp32.
        """
        return self.run(self.model, inputs, tensors)

    def hidden_states(
        self, model: nn.Module, inputs: Mapping[str, Any], tensors: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """The hidden states of the student or another model: the first ones and those after each layer or stage.

        Args:
            model: A bare module on the device of the training.
            inputs: As in `forward`.
            tensors: As in `forward`.

        Returns:
            Each `(batch_size, length, hidden_size)`, or `(batch_size, num_channels, height, width)`.

        Raises:
            InputError: If the model returns none.
        """
        outputs = self._outputs(model, {**inputs, "output_hidden_states": True}, tensors)
        states = outputs.get("hidden_states") if isinstance(outputs, Mapping) else None
        if states is None or states[0].dim() not in (3, 4):
            raise InputError(
                f"{type(model).__name__} must return hidden states of shape (batch_size, length, hidden_size), or for "
                "pictures (batch_size, num_channels, height, width), when given `output_hidden_states=True`, as "
                "transformers' own models do, got none. Choose another model."
            )
        return states

    def run(self, model: nn.Module, inputs: Mapping[str, Any], tensors: dict[str, Tensor] | None = None) -> Tensor:
        """Runs some model as the student is run; see `forward`.

        Args:
            model: A bare module on the device of the training.
            inputs: As in `forward`.
            tensors: As in `forward`.
        """
        return logits_of(self._outputs(model, inputs, tensors))

    def _outputs(self, model: nn.Module, inputs: Mapping[str, Any], tensors: dict[str, Tensor] | None) -> Any:
        if model is self.model and torch.is_grad_enabled() and self._trainer.accelerator.num_processes > 1:
            _check_no_layer_is_dropped(getattr(model, "config", None))
        accepted = named_parameters(model)
        inputs = with_decoder_inputs(model, inputs)
        inputs = {
            name: value
            for name, value in inputs.items()
            if name not in self._trainer.label_names and (accepted is None or name in accepted)
        }
        # The wrapper, where there is one, brings the autocast of mixed precision; here it is given anew.
        with self._trainer.accelerator.autocast(), noting(_FORWARD.format(type(model).__name__)):
            if tensors is None:
                return model(**inputs)
            return torch.func.functional_call(model, tensors, kwargs=inputs)

    @torch.no_grad()
    def predict_training_set(
        self, predict: Callable[[Mapping[str, Any], Tensor], Tensor] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Predicts every training example once, in the order of the training set and in evaluation mode.

        Each process predicts its share. Torch's random state is put back, so that training is not disturbed.

        Args:
            predict: From inputs and example indices, int64 `(batch_size,)`, to logits; `None` is the student.

        Yields:
            Example indices `(batch_size,)` and logits `(batch_size, num_labels)`; on each process at least one batch,
            which may be empty.
        """
        args, num_examples = self._trainer.args, len(self.train_dataset)
        size, rank, count = args.eval_batch_size, args.process_index, args.world_size
        was_training = self.model.training
        self.model.eval()
        try:
            # A rank without batches runs row 0 for the logits' shape and yields an empty batch.
            starts = range(rank * size, num_examples, count * size)
            batches = [range(start, min(start + size, num_examples)) for start in starts]
            # A table that is made before the training is the same in a run that is resumed.
            step = self._trainer.state.global_step if predict is None else 0
            for rows, batch in self._training_batches(batches or [range(1)], step):
                inputs = self._trainer._prepare_inputs(batch)
                indices = torch.tensor(rows, dtype=torch.int64, device=args.device)
                logits = self.forward(inputs) if predict is None else predict(inputs, indices)
                kept = len(rows) if batches else 0
                yield indices[:kept], logits[:kept]
        finally:
            self.model.train(was_training)

    def training_inputs(self) -> Iterator[Mapping[str, Any]]:
        """The training examples in their order, collated as the model takes them; on the CPU."""
        size, num_examples = self._trainer.args.eval_batch_size, len(self.train_dataset)
        starts = range(0, num_examples, size)
        for _, batch in self._training_batches([range(start, min(start + size, num_examples)) for start in starts], 0):
            yield batch

    def _training_batches(self, batches: Iterable[range], step: int) -> Iterator[tuple[range, Mapping[str, Any]]]:
        """Batches of training examples; random states are put back, so that training is not disturbed.

        What is random in the examples follows from the seed and the step, so that a resumed run draws the same.
        """
        dataset, collate = self._trainer.training_examples()
        dataset = without_augmentation(dataset)
        # A shallow copy may open files, which the workers of a data loader must not inherit.
        dataset, device = copy.copy(dataset), self._trainer.args.device
        with random_state_put_back([device] if device.type == "cuda" else []):
            seed = (self._trainer.args.seed + step) % 2**32
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            for rows in batches:
                yield rows, collate(_fetch(dataset, list(rows)))


def _check_no_layer_is_dropped(config: Any) -> None:
    """DistributedDataParallel takes a layer that its own forward dropped for unused, whatever the second one does."""
    for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
        share = getattr(config, name, 0.0)
        if share:
            raise InputError(
                f"`{name}` in the model's config must be 0 on several processes with a method that runs the model "
                f"twice for a batch, got {share}. Set it to 0, or use another method."
            )


def _without_adapters(model: nn.Module) -> nn.Module:
    """The model within a PEFT model, whose own `forward` takes anything."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def named_parameters(model: nn.Module) -> frozenset[str] | None:
    """What a model's `forward` takes by name; `None` if it takes anything."""
    return _parameters_of(type(_without_adapters(model)))


@functools.cache
def _parameters_of(model_class: type[nn.Module]) -> frozenset[str] | None:
    parameters = inspect.signature(model_class.forward).parameters.values()
    takes_anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return None if takes_anything else frozenset(parameter.name for parameter in parameters)


def _fetch(dataset: Any, rows: list[int]) -> list[Any]:
    """Rows of a dataset, at once where it can."""
    return dataset.__getitems__(rows) if hasattr(dataset, "__getitems__") else [dataset[row] for row in rows]


def checked_result(result: Any, name: str) -> tuple[Tensor, Any]:
    """The loss and the outputs that a `compute_loss` returned.

    Args:
        result: What it returned.
        name: Its name.

    Raises:
        TypeError: If it returned something else.
    """
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(
            "`compute_loss` must return (loss, outputs) when called with `return_outputs=True`, got "
            f"{type(result).__name__} from {name}. The outputs hold the student's logits; end it with "
            "`return (loss, outputs) if return_outputs else loss`."
        )
    return result


def logits_of(outputs: Any) -> Tensor:
    """The logits in a model's outputs, at least fp32: a KL in bf16 loses its small values.

    Outputs are a mapping with the key `logits`, or with a single tensor beside the loss; a tensor; or a tuple with the
    logits in the first place after the loss.

    Args:
        outputs: What the model returned.

    Returns:
        Logits `(batch_size, num_labels)`; outputs `(batch_size,)`, as of a regression, become `(batch_size, 1)`.

    Raises:
        InputError: If there are none, or it is not clear which they are.
    """
    if isinstance(outputs, Tensor):
        logits = outputs
    elif isinstance(outputs, Mapping):
        logits = outputs.get("logits")
        if logits is None:
            found = [value for name, value in outputs.items() if name != "loss" and _is_batch(value)]
            logits = found[0] if len(found) == 1 else None
    else:
        found = [value for value in outputs if _is_batch(value)]
        # A loss for each device is one-dimensional as well.
        found = [value for value in found if value.dim() > 1] or found
        is_clear = len(found) == 1 or (found and found[0].shape != found[1].shape)
        logits = found[0] if is_clear else None
    if not isinstance(logits, Tensor):
        raise InputError(
            "The model's outputs must have one tensor `logits`, or be a tuple with them in the first place after the "
            f"loss and nothing of their shape behind; got {_shown(outputs)}."
        )
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.unsqueeze(-1) if logits.dim() == 1 else logits


def _is_batch(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _shown(outputs: Any) -> str:
    if isinstance(outputs, Mapping):
        return ", ".join(f"`{name}` ({type(value).__name__})" for name, value in outputs.items())
    shapes = [tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__ for output in outputs]
    return f"a {type(outputs).__name__} of {shapes}"
