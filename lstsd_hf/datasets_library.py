"""Recognising a `datasets.Dataset` without importing that package for somebody who does not."""

import sys
from typing import Any


def is_hugging_face_dataset(dataset: Any) -> bool:
    """Whether it is a `datasets.Dataset`."""
    module = sys.modules.get("datasets")
    return module is not None and isinstance(dataset, module.Dataset)
