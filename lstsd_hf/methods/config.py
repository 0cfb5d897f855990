"""The options of a method, of which every other form follows: command line, checkpoints, records, model cards."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

import numpy as np

from ..errors import InputError
from ..schedules import TrainingPlan

if TYPE_CHECKING:
    from .base import Teacher


@dataclass(frozen=True)
class TeacherConfig:
    """Base of every method's options. A subclass is a frozen dataclass whose fields become command-line options.

    Attributes:
        name: Name in the registry.
        search_space: What a search tunes: for each field its candidate values.
        changeable: Fields that a resumed run may have changed, if told so.
        added_later: Fields that a run's description leaves out at their defaults, so that older runs keep theirs.
        is_self_taught: Whether the training itself makes the teacher. One from outside must be named, and may know
            labels that are held out here.

    Raises:
        InputError: If a field has a value that is not allowed; `check_plan`, if it does not fit the length of a run.

    Examples:
        >>> @dataclass(frozen=True)
        ... class HalfConfig(TeacherConfig):
        ...     weight: float = 0.5
        ...     def __post_init__(self):
        ...         super().__post_init__()
        ...         self._check_weight("weight")
        >>> HalfConfig(weight=-1.0)
        Traceback (most recent call last):
        lstsd_hf.errors.InputError: `weight` must be a finite number of at least 0, got -1.0. 0 drops the term.
    """

    name: ClassVar[str]
    changeable: ClassVar[tuple[str, ...]] = ()
    search_space: ClassVar[Mapping[str, tuple]] = {}
    added_later: ClassVar[tuple[str, ...]] = ()
    is_self_taught: ClassVar[bool] = True

    def __post_init__(self):
        hints = get_type_hints(type(self))
        for option in fields(self):
            value, allowed = getattr(self, option.name), hints[option.name]
            if isinstance(value, np.generic):
                value = value.item()
                object.__setattr__(self, option.name, value)
            kinds = get_args(allowed) if get_origin(allowed) in (Union, UnionType) else (allowed,)
            if not any(_is_a(value, kind) for kind in kinds):
                shown = " or ".join(filter(None, map(_shown, kinds)))
                raise InputError(f"`{option.name}` of {type(self).__name__} must be {shown}, got {value!r}.")

    @classmethod
    def paper(cls) -> Self:
        """The options that reproduce the method's paper; where they are the defaults, `cls()`."""
        return cls()

    @classmethod
    def paper_for_images(cls) -> Self:
        """The options of the paper's experiments on pictures, where they are others than `paper()`."""
        return cls.paper()

    @classmethod
    def neutral(cls) -> Self:
        """The options under which training is the parent Trainer's, bit for bit, but for the order of length groups."""
        raise TypeError(f"{cls.__name__} does not define `neutral`.")

    def description(self) -> dict[str, Any]:
        """The method's name and options."""
        defaults = {option.name: option.default for option in fields(self) if option.name in self.added_later}
        options = {name: value for name, value in asdict(self).items() if defaults.get(name, MISSING) != value}
        return {"name": self.name, **options}

    def check_plan(self, plan: TrainingPlan) -> None:
        """Raises an `InputError` if the options do not fit the length of a run."""

    def check_source(self) -> None:
        """Raises an `InputError` if what is to teach is not named."""

    def first_stage(self) -> "TeacherConfig | None":
        """The options of a training that must come first, if its folder is to be the teacher and is not named."""
        return None

    def taught_by(self, folder: Path) -> Self:
        """These options, with a folder as the teacher."""
        raise TypeError(f"{type(self).__name__} does not define `taught_by`.")

    def source_digest(self) -> str | None:
        """A digest of the files that are to teach, if there are any."""
        return None

    def fitted_to(self, plan: TrainingPlan) -> Self:
        """These options, with those that were left out fitted to the length of a run."""
        return self

    def build(self) -> "Teacher":
        """The teacher that these options describe."""
        raise TypeError(f"{type(self).__name__} does not define `build`.")

    def _check_weight(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"`{name}` must be a finite number of at least 0, got {value}. 0 drops the term.")

    def _check_temperature(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"`temperature` must be positive, got {self.temperature}. 1 leaves the logits unchanged.")

    def _check_share(self, name: str, at_an_end: str = "0 is plain fine-tuning.") -> None:
        if not 0 <= getattr(self, name) <= 1:
            raise InputError(f"`{name}` must be from 0 to 1, got {getattr(self, name)}. {at_an_end}")

    def _check_limit(self, name: str) -> None:
        if not getattr(self, name) >= 1:
            raise InputError(
                f"`{name}` bounds a factor relative to the mean and must be at least 1, got {getattr(self, name)}."
            )

    def _check_decay(self, name: str) -> None:
        if not 0 <= getattr(self, name) < 1:
            raise InputError(
                f"`{name}` is the weight of the old value and must be from 0 to below 1, got {getattr(self, name)}."
            )

    def _check_epochs(self, name: str) -> None:
        length = getattr(self, name)
        if length is not None and length < 1:
            raise InputError(
                f"`{name}` must be a whole number of at least 1, got {length}. "
                "Leave it out to fit it to the number of epochs."
            )

    def _check_rampup(self) -> None:
        length = self.rampup_epochs
        if length is not None and not (math.isfinite(length) and length >= 0):
            raise InputError(
                f"`rampup_epochs` must be a finite number of at least 0, got {length}. 0: full weight at once."
            )

    def _check_two_epochs(self, plan: TrainingPlan) -> None:
        if plan.num_epochs < 2:
            raise InputError(
                f"`num_train_epochs` must be at least 2, or no epoch distils: got {plan.num_epochs} planned. Train for "
                "at least 2 epochs; for plain fine-tuning use the method `vanilla`."
            )

    def _fitted_rampup(self, plan: TrainingPlan) -> float:
        return self.rampup_epochs if self.rampup_epochs is not None else plan.num_epochs / 10


_SHOWN_KINDS = {float: "a number", int: "a whole number", bool: "True or False", str: "a string", NoneType: "None"}


def _shown(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {sorted(get_args(kind), key=repr)}"
    return _SHOWN_KINDS.get(kind, "")


def _is_a(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    # Other kinds have checks of their own.
    return kind not in _SHOWN_KINDS or isinstance(value, kind)
