"""Docstrings of public names: each has an example, and the examples do what they say."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch
from transformers import PrinterCallback, TrainingArguments

import lstsd_hf
from lstsd_hf import LSTSDTrainer, losses
from tests.helpers import make_examples, make_model

MODULES = [
    found.name for found in pkgutil.walk_packages(lstsd_hf.__path__, "lstsd_hf.") if "__main__" not in found.name
]
PUBLIC = {name: getattr(lstsd_hf, name) for name in dir(lstsd_hf) if inspect.isclass(getattr(lstsd_hf, name))}
PUBLIC |= {name: value for name, value in vars(losses).items() if inspect.isfunction(value) and name[0] != "_"}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    assert ">>>" in (PUBLIC[name].__doc__ or ""), f"The docstring of `{name}` must have an example."


@pytest.mark.parametrize("name", MODULES)
def test_examples_do_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.setattr(PrinterCallback, "on_log", lambda *args, **kwargs: None)
    module = importlib.import_module(name)
    examples = [test for test in doctest.DocTestFinder().find(module, name) if test.examples]
    for test in examples:
        args = TrainingArguments(
            output_dir=str(tmp_path / "run"),
            num_train_epochs=3,
            per_device_train_batch_size=4,
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        given = {"torch": torch, "model": make_model(), "args": args, "data": make_examples(12)}
        test.globs = {"LSTSDTrainer": LSTSDTrainer, **given, **test.globs}
        report = []
        flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        doctest.DocTestRunner(optionflags=flags, verbose=False).run(test, out=report.append)
        assert not report, "".join(report)
