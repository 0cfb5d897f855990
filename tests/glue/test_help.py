"""What a command says of itself, and how soon."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT


@pytest.mark.parametrize("package", ["glue", "images"])
def test_help_needs_no_torch(package):
    code = (
        "import sys; sys.argv = ['command', '--method', 'lstsd', '--help']; "
        f"from lstsd_hf.{package}.command import run; run(); "
        "sys.exit(', '.join({'torch', 'transformers', 'datasets', 'numpy'} & {*sys.modules}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for option in ("--label_noise", "--memory_storage", "--lambda_short", "--help_all"):
        assert option in done.stdout, option
    assert "--warmup_steps" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_all_options_are_listed_on_request():
    command = [sys.executable, "run_glue.py", "--method", "lstsd", "--help_all"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for option in ("--label_noise", "--lambda_short", "--warmup_steps"):
        assert option in done.stdout, option
