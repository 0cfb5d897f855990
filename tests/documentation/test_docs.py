"""README and the site: their code runs, their commands parse, and what follows from the methods is up to date."""

import logging
import re
import shlex
import subprocess
import sys

import pytest
from transformers import TrainingArguments

import lstsd_hf
from lstsd_hf import LSTSDTrainer
from lstsd_hf.glue import cli
from lstsd_hf.images import cli as images_cli
from tests.helpers import ROOT, make_examples, make_model
from tests.images.helpers import make_network, make_pixels

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text()


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_first_screen_is_short():
    assert len(README.splitlines()) <= 200


def test_quickstart_prints_its_output(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    try:
        exec(compile(blocks(README, "python")[0], "README.md", "exec"), {})
    finally:
        logging.getLogger("lstsd_hf").setLevel(logging.NOTSET)
    (wanted,) = (text for text in blocks(README, "text") if "distilled\n" in text)
    line, *printed = wanted.splitlines()
    assert line in caplog.messages
    output = capsys.readouterr().out.splitlines()
    assert [text for text in output if not text.startswith("{")] == printed


def test_the_code_of_the_guide_to_pictures_runs(make_args):
    names = {"model": make_network(), "args": make_args(), "pixels": make_pixels(12), "labels": [0, 1] * 6}
    names |= {"mean": [0.5] * 3, "std": [0.25] * 3, "LSTSDTrainer": LSTSDTrainer}
    (code,) = blocks((ROOT / "docs" / "guides" / "pictures.md").read_text(), "python")
    exec(compile(code, "pictures.md", "exec"), names)
    names["trainer"].train()
    assert names["trainer"].distilled_steps > 0


def test_the_guide_to_tokens_tells_what_happens(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "guides" / "tokens.md").read_text()
    names = {}
    first, second = blocks(guide, "python")
    exec(compile(first, "tokens.md", "exec"), names)
    output = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("{")]
    assert output == blocks(guide, "text")[0].splitlines()
    exec(compile(second, "tokens.md", "exec"), names)
    ranked = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("{")]
    assert len(ranked) == 3
    assert all(re.search(r"\[\w+\]", line) for line in ranked)
    listed = re.search(r"A method that takes tokens\*\*: (.*?)\.", guide, flags=re.DOTALL)[1]
    takers = {name for name, config in lstsd_hf.METHODS.items() if config().build().takes_tokens}
    assert set(re.findall(r"`(\w+)`", listed)) == takers
    assert f"{len(takers)} of the methods" in (ROOT / "docs" / "guides" / "limits.md").read_text().replace("ten", "10")


@pytest.mark.parametrize("name", ["your-own-script", "label-errors", "resuming"])
def test_the_code_of_a_guide_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = TrainingArguments(
        output_dir=str(tmp_path / "run"), num_train_epochs=3, use_cpu=True, report_to=[], disable_tqdm=True
    )
    names = {"model": make_model(), "args": args, "data": make_examples(12), "tokenizer": None}
    for code in blocks((ROOT / "docs" / "guides" / f"{name}.md").read_text(), "python"):
        exec(compile(code, name, "exec"), names)
    if name == "your-own-script":
        names["Weighted"](model=make_model(), args=args, train_dataset=make_examples(8)).train()
    logging.getLogger("lstsd_hf").setLevel(logging.NOTSET)


def test_the_guide_to_a_method_shows_the_real_one(make_args):
    source = (ROOT / "lstsd_hf" / "methods" / "r_drop.py").read_text()
    *shown, own = blocks((ROOT / "docs" / "guides" / "adding-a-method.md").read_text(), "python")
    assert len(shown) >= 5
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    for code in shown:
        wanted = [line.strip() for line in code.splitlines() if line.strip()]
        assert any(lines[start : start + len(wanted)] == wanted for start in range(len(lines))), code
    names = {}
    exec(compile(own, "adding-a-method.md", "exec"), names)
    trainer = LSTSDTrainer(
        model=make_model(), args=make_args(), train_dataset=make_examples(8), teacher=names["LastSeen"]()
    )
    trainer.train()
    assert trainer.state.log_history[-2]["loss_last_seen"] > 0


def test_every_public_name_exists():
    for name in lstsd_hf.__all__:
        assert getattr(lstsd_hf, name) is not None


def test_what_follows_from_the_methods_is_up_to_date():
    """Names the page, table or stub that is missing or stale."""
    command = [sys.executable, str(ROOT / "tools" / "fix_copies.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_commands_are_understood():
    """Every `run_glue.py` and `run_cifar.py` command line on a page parses."""
    for script, parse, least in (("run_glue", cli.parse, 8), ("run_cifar", images_cli.parse, 4)):
        commands = [
            command
            for page in PAGES
            for command in re.findall(
                rf"^(?:torchrun .* )?(?:python )?{script}\.py (.*)$", page.read_text(), re.MULTILINE
            )
        ]
        assert len(commands) >= least
        for command in commands:
            if "--train_file" not in command:
                assert parse(shlex.split(command, comments=True)).teachers
