"""README's code runs and prints what it says."""

import re
from pathlib import Path

import lstsd_hf
from lstsd_hf import LSTSDTrainer

from .conftest import make_examples

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def blocks(language):
    return [text for name, text in BLOCKS if name == language]


def test_quickstart_prints_its_output(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    line, *printed = blocks("text")[0].splitlines()
    assert line in caplog.messages
    output = capsys.readouterr().out.splitlines()
    assert [text for text in output if not text.startswith("{")] == printed


def test_ones_own_method(tiny_model, make_args):
    names = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), names)
    trainer = LSTSDTrainer(
        model=tiny_model, args=make_args(), train_dataset=make_examples(8), teacher=names["LastSeen"]()
    )
    trainer.train()
    assert trainer.state.log_history[-2]["loss_last_seen"] > 0


def test_every_public_name_exists():
    for name in lstsd_hf.__all__:
        assert getattr(lstsd_hf, name) is not None
