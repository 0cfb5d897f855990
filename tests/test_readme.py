"""README's code runs and prints what it says."""

import re
import shlex
from pathlib import Path

import lstsd_hf
from lstsd_hf import METHODS, LSTSDTrainer
from lstsd_hf.glue import cli

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


def test_suspicious_labels(tiny_model, make_args):
    names = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), names)
    ranking = names["suspicious"](tiny_model, make_args(), make_examples(12), None)
    assert len(ranking) == 10
    assert ranking[0].given_probability <= ranking[-1].given_probability


def test_ones_own_method(tiny_model, make_args):
    names = {}
    code = blocks("python")[2]
    assert len([line for line in code.split("class ")[1].splitlines() if line.strip()]) <= 15
    exec(compile(code, "README.md", "exec"), names)
    trainer = LSTSDTrainer(
        model=tiny_model, args=make_args(), train_dataset=make_examples(8), teacher=names["LastSeen"]()
    )
    trainer.train()
    assert trainer.state.log_history[-2]["loss_last_seen"] > 0


def test_every_public_name_exists():
    for name in lstsd_hf.__all__:
        assert getattr(lstsd_hf, name) is not None


def test_every_method_is_in_the_table_and_described():
    table = README[README.index("| method | what teaches |") : README.index("**Wrong labels.**")]
    described = (Path(__file__).parent.parent / "docs" / "methods.md").read_text()
    headings = " ".join(line for line in described.splitlines() if line.startswith("## "))
    for name in METHODS:
        assert f"`{name}`" in table, name
        assert re.search(rf"\b{name}\b", headings), name


def test_commands_are_understood():
    """Every `run_glue.py` command line of README parses."""
    commands = re.findall(r"^python run_glue\.py (.*)$", README, flags=re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        assert cli.parse(shlex.split(command, comments=True)).teachers
