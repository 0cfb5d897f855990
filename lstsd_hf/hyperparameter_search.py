"""`trainer.hyperparameter_search` over the options of a method."""

import logging
from dataclasses import fields, replace

from .methods.base import ConfiguredTeacher

logger = logging.getLogger(__name__)


class SearchableTeacherMixin:
    """A trainer whose trials may set options of its teacher's config, as may attributes set on `args`."""

    def _hp_search_setup(self, trial):
        """The parent's; a name that is an option of the teacher's config sets that."""
        # The parent sets what it finds among `args`.
        options = self._teacher_options() if trial is not None else set()
        vars(self.args).update(dict.fromkeys(options, _NotSearched()))
        try:
            super()._hp_search_setup(trial)
        finally:
            self._adopt_options()

    def _adopt_options(self) -> None:
        """Takes options of the teacher's config from `args`, where `setattr(args, name, value)` puts what was found."""
        found = {name: vars(self.args).pop(name) for name in self._teacher_options() if name in vars(self.args)}
        found = {name: value for name, value in found.items() if not isinstance(value, _NotSearched)}
        if found:
            config = replace(self.teacher.config, **found)
            is_built_of_it = isinstance(self.teacher, ConfiguredTeacher)
            self._group.teacher = self.teacher.with_config(config) if is_built_of_it else config.build()
            self._group.introduce(self._context)
            logger.info(f"Options of the method: {', '.join(f'{name}={value}' for name, value in found.items())}.")

    def _teacher_options(self) -> set[str]:
        """Names of the options of the teacher's config that are no arguments of Trainer's."""
        config = self.teacher.config
        options = set() if config is None else {option.name for option in fields(config) if option.init}
        return options - {argument.name for argument in fields(self.args)}


class _NotSearched:
    """Instead of an option: the parent converts a value to the type of what it replaces, here to itself."""

    def __new__(cls, *value):
        return value[0] if value else super().__new__(cls)
