"""What is shipped: a wheel with everything the package reads, and an import that stays cheap."""

import subprocess
import sys
import zipfile

from tests.helpers import ROOT


def test_importing_is_cheap():
    code = "import sys, lstsd_hf; print(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"


def test_wheel_holds_the_package_and_its_schema(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("lstsd_hf-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("lstsd_hf/**/*.py")}
    page = {f"lstsd_hf/dynamics/report/{name}" for name in ("template.html", "page.css", "page.js")}
    assert (
        sources | page | {"lstsd_hf/runner/results.schema.json", "lstsd_hf/__init__.pyi", "lstsd_hf/py.typed"} <= names
    )
    assert not any(name.startswith("tests/") for name in names)


BLOCKED = ("sklearn", "scipy", "evaluate", "datasets", "pyarrow", "pandas", "optuna", "matplotlib")
CORE = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(
    lambda name, *more: None if name.partition(".")[0] in {blocked} else find(name, *more)
)
import torch
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
from lstsd_hf import LSTSDTrainer

rows = [{{"input_ids": [1, 2, 3, index], "labels": index % 2}} for index in range(8)]
config = BertConfig(
    vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
)
args = TrainingArguments(
    output_dir={folder!r}, num_train_epochs=2, save_strategy="epoch", report_to=[], use_cpu=True, disable_tqdm=True
)
trainer = LSTSDTrainer(BertForSequenceClassification(config), args, train_dataset=rows)
trainer.train()
try:
    LSTSDTrainer(BertForSequenceClassification(config), args, train_dataset=rows, record_dynamics=True)
except ImportError as error:
    assert "need pyarrow and pandas, found none. Install them: pip install 'lstsd-hf[dynamics]'" in str(error), error
else:
    raise AssertionError("recording needs pyarrow")
print(len(trainer.teacher.rank_label_errors()), trainer.distilled_steps)
"""


def test_the_core_needs_torch_and_transformers_alone(tmp_path):
    """Training, saving and finding label errors without what the runner needs."""
    script = CORE.format(blocked=BLOCKED, folder=str(tmp_path / "run"))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "8 1"
