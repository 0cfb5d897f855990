"""The output layer of a loaded classifier: an equal shape does not make it one for the task's labels."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import InputError
from ..label_order import are_names, label_order, normalized
from .tasks import Task

logger = logging.getLogger(__name__)


def fit_output_layer(
    model: PreTrainedModel,
    saved: PreTrainedConfig,
    task: Task,
    loading: Mapping[str, Any],
    name: str,
    inputs: Mapping[str, Tensor],
) -> None:
    """Keeps an output layer that was trained for the task's labels, in the task's order; makes any other one new.

    Labels are the same if their names are, in any case and with any separator. What happens is logged in one line,
    unless the model came without an output layer, as a pretrained encoder does.

    Args:
        model: The classifier, loaded with the task's labels.
        saved: The config that the model was saved with.
        task: The task.
        loading: What `from_pretrained` says of parameters that were not loaded.
        name: The model's name, for the log.
        inputs: Some inputs of the model.

    Raises:
        InputError: If the model has no output layer that can be put into another order.
    """
    layer_name, layer = _output_layer(model, task, name)
    # Mismatched keys come with their shapes.
    new_keys = {
        *loading["missing_keys"],
        *(key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"]),
    }
    if f"{layer_name}.weight" in new_keys:
        if saved.num_labels != task.num_outputs and are_names(saved.id2label.values()):
            logger.info(f"The output layer of {name} is new: it was trained for {_shown(saved)}.")
        return
    order = _order(saved, task)
    if order is None:
        _initialize(model, layer)
        wanted = "a regression" if task.is_regression else ", ".join(task.label_names)
        logger.info(f"The output layer of {name} is new: it was trained for {_shown(saved)}, the task is {wanted}.")
    elif order != sorted(order):
        _reorder(model, layer, order, name, inputs)
        logger.info(f"The outputs of {name} were reordered by name: from {_shown(saved)} to {list(task.label_names)}.")


def _order(saved: PreTrainedConfig, task: Task) -> list[int] | None:
    """For each label of the task, which saved output is for it; `None` if they are not the same labels."""
    if task.is_regression:
        return [0] if saved.problem_type == "regression" and saved.num_labels == 1 else None
    if saved.problem_type == "regression":
        return None
    told = {normalized(label): index for label, index in (saved.label2id or {}).items()}
    # A config whose two maps contradict each other tells nothing.
    if any(told.get(normalized(label), index) != index for index, label in saved.id2label.items()):
        return None
    order = label_order(list(saved.id2label.values()), task.label_names)
    return None if order is None else [list(saved.id2label)[position] for position in order]


def _shown(config: PreTrainedConfig) -> str:
    if config.problem_type == "regression":
        return "a regression"
    labels = list(config.id2label.values())
    return str(labels) if are_names(labels) else f"{config.num_labels} labels without names"


def _output_layer(model: PreTrainedModel, task: Task, name: str) -> tuple[str, nn.Linear]:
    base = f"{model.base_model_prefix}."
    layers = [
        (layer_name, layer)
        for layer_name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer.out_features == task.num_outputs and not layer_name.startswith(base)
    ]
    if not layers:
        raise InputError(
            f"{name!r} must have a linear output layer with {task.num_outputs} outputs on its encoder, found none in "
            f"{type(model).__name__}. Choose another model."
        )
    return layers[-1]


@torch.no_grad()
def _initialize(model: PreTrainedModel, layer: nn.Linear) -> None:
    for item in (layer, *layer.parameters()):
        item._is_hf_initialized = False
    model._init_weights(layer)


@torch.no_grad()
def _reorder(
    model: PreTrainedModel, layer: nn.Linear, order: list[int], name: str, inputs: Mapping[str, Tensor]
) -> None:
    was_training = model.training
    model.eval()
    before = model(**inputs).logits
    for parameter in layer.parameters():
        parameter.copy_(parameter[order])
    is_reordered = torch.allclose(model(**inputs).logits, before[:, order], atol=1e-5)
    model.train(was_training)
    if not is_reordered:
        raise InputError(
            f"The outputs of {name!r} must be those of its last linear layer to be put into the task's order, but they "
            "are not. Save the model with its labels in the task's order."
        )
