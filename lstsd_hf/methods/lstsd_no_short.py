"""LSTSD without its short-term teacher, a row of the paper's ablation."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

from .lstsd import LSTSDConfig


@dataclass(frozen=True)
class LSTSDNoShortConfig(LSTSDConfig):
    """Options of LSTSD (w/o Short): λS is 0, the others are those of `LSTSDConfig`.

    Source: Jiang et al., "Long Short-Term Sample Distillation", AAAI 2020, arXiv 2003.00739, Table 3.

    Examples:
        >>> LSTSDNoShortConfig(lambda_long=2.0).lambda_short
        0.0
    """

    name = "lstsd_no_short"
    search_space: ClassVar = {
        name: values for name, values in LSTSDConfig.search_space.items() if name != "lambda_short"
    }

    lambda_short: float = field(default=0.0, init=False)

    @classmethod
    def paper(cls) -> Self:
        """λL 2.4, E 6, T 1, KL[student ‖ teacher], no floor."""
        return cls(lambda_long=2.4, mini_generation_epochs=6, teacher_floor=0.0)

    @classmethod
    def neutral(cls) -> Self:
        """The remaining weight zero."""
        return cls(lambda_long=0.0)
