"""Wrappers over an object's methods for a while, whatever class defines these."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def shadowed(instance: Any, wrappers: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Within the block, the method `name` of an object is `wrappers[name](method, ...)`.

    The method is the most derived one, so that an override that never calls `super()` is wrapped too.

    Args:
        instance: The object.
        wrappers: By name of a method: a function that is called with the method and its arguments.
    """
    methods = {name: functools.partial(wrap, getattr(instance, name)) for name, wrap in wrappers.items()}
    own = {name: vars(instance)[name] for name in methods if name in vars(instance)}
    vars(instance).update(methods)
    try:
        yield
    finally:
        for name in methods:
            delattr(instance, name)
        vars(instance).update(own)
