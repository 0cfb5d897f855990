"""`trainer.hyperparameter_search` over the options of a method."""

import logging
from dataclasses import fields, replace
from typing import Any

from .methods.base import ConfiguredTeacher

logger = logging.getLogger(__name__)


class SearchableTeacherMixin:
    """A trainer whose trials may set options of its teacher's config, and which trains with those that were found."""

    # Options that trials have set.
    _searched: frozenset[str] = frozenset()

    def train(self, *args, **kwargs):
        """The parent's, with the options of the method that a search has tried and that are set on `args` since."""
        self._use({name: value for name, value in vars(self.args).items() if name in self._searched})
        return super().train(*args, **kwargs)

    def _hp_search_setup(self, trial):
        """The parent's; a name that is an option of the teacher's config sets that."""
        # The parent sets what it finds among `args`.
        options = self._teacher_options() if trial is not None else set()
        others = {name: value for name, value in vars(self.args).items() if name in options}
        vars(self.args).update(dict.fromkeys(options, _NotSearched()))
        try:
            super()._hp_search_setup(trial)
        finally:
            drawn = {name: vars(self.args).pop(name) for name in options}
            drawn = {name: value for name, value in drawn.items() if not isinstance(value, _NotSearched)}
            # An attribute of the user's own stays; that of an earlier search gives way to the trial.
            vars(self.args).update({name: value for name, value in others.items() if name not in drawn})
        self._searched |= drawn.keys()
        self._use(drawn)

    def _use(self, options: dict[str, Any]) -> None:
        """Gives the teacher other options."""
        config = self.teacher.config
        if any(getattr(config, name) != value for name, value in options.items()):
            config = replace(config, **options)
            is_built_of_it = isinstance(self.teacher, ConfiguredTeacher)
            self._group.teacher = self.teacher.with_config(config) if is_built_of_it else config.build()
            self._group.introduce(self._context)
            logger.info(f"Options of the method: {', '.join(f'{name}={value}' for name, value in options.items())}.")

    def _teacher_options(self) -> set[str]:
        """Names of the options of the teacher's config that are no arguments of Trainer's."""
        config = self.teacher.config
        options = set() if config is None else {option.name for option in fields(config) if option.init}
        return options - {argument.name for argument in fields(self.args)}


class _NotSearched:
    """Instead of an option: the parent converts a value to the type of what it replaces, here to itself."""

    def __new__(cls, *value):
        return value[0] if value else super().__new__(cls)
