"""`trainer.hyperparameter_search` over the options of a method."""

from dataclasses import fields, replace

from .methods.base import ConfiguredTeacher


class SearchableTeacherMixin:
    """A trainer whose trials may set options of its teacher's config."""

    def _hp_search_setup(self, trial):
        """The parent's; a name that is an option of the teacher's config sets that."""
        config, options = self.teacher.config, set()
        if trial is not None and config is not None:
            options = {option.name for option in fields(config) if option.init and not hasattr(self.args, option.name)}
        # The parent sets what it finds among `args`.
        vars(self.args).update(dict.fromkeys(options, _NotSearched()))
        try:
            super()._hp_search_setup(trial)
            found = {name: getattr(self.args, name) for name in options}
        finally:
            for name in options:
                delattr(self.args, name)
        found = {name: value for name, value in found.items() if not isinstance(value, _NotSearched)}
        if found:
            config = replace(config, **found)
            is_built_of_it = isinstance(self.teacher, ConfiguredTeacher)
            self._group.teacher = self.teacher.with_config(config) if is_built_of_it else config.build()
            self._group.introduce(self._context)


class _NotSearched:
    """Instead of an option: the parent converts a value to the type of what it replaces, here to itself."""

    def __new__(cls, *value):
        return value[0] if value else super().__new__(cls)
