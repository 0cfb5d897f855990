"""Where the supported versions of transformers differ; nothing else asks for a version or a feature."""

import inspect

from transformers.trainer_pt_utils import LabelSmoother


def smoothing_divides_by_items() -> bool:
    """Whether label smoothing divides by the labels of the whole optimizer step (5.15 on) or of the micro-batch."""
    return "num_items_in_batch" in inspect.signature(LabelSmoother.__call__).parameters
