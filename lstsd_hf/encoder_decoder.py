"""Models that generate a target from a source, and make their decoder's inputs of the labels."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from .errors import InputError


def generates_target(model: nn.Module) -> bool:
    """Whether a model's labels are the tokens of a target, and not of its inputs.

    Args:
        model: The bare module.
    """
    is_encoder_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return bool(is_encoder_decoder) and hasattr(model, "can_generate") and model.can_generate()


def with_decoder_inputs(model: nn.Module, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """A batch with the decoder's inputs, for a model that is not given the labels.

    Args:
        model: The bare module.
        inputs: Its inputs, labels among them; those of a classifier or a tagger stay as they are.

    Raises:
        InputError: If the model does not say how it makes them.
    """
    labels, has_own = inputs.get("labels"), "decoder_input_ids" in inputs or "decoder_inputs_embeds" in inputs
    if not generates_target(model) or has_own or labels is None:
        return inputs
    prepare = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if prepare is None:
        raise InputError(
            f"A batch must have `decoder_input_ids` for {type(model).__name__}, which makes them of the labels and is "
            "run without them. Add them in the collator, or use a method that does not run the model again, such as "
            "`LSTSDConfig()`."
        )
    return {**inputs, "decoder_input_ids": prepare(labels=labels)}
