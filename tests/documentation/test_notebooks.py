"""The notebooks run from top to bottom and show what they say."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import ROOT

# What each must print, and how many figures it has.
NOTEBOOKS = {
    "quickstart": (["short-term table: (128, 2) torch.float32", "coverage: 1.0", "distilled steps: 32 of 48"], 2),
    "your_own_script": (["the same weights: True", "the same weights as without the stop: True", "240 of 480"], 0),
    "find_label_errors": (["by chance it would be 8", "estimated out of sample", "260 examples"], 1),
    "compare_methods": (["GENERATED DATA", "− vanilla [95 % CI]", "temporal_ensemble | 4 |"], 1),
}


def test_every_notebook_is_here():
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == sorted(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path):
    expected, figures = NOTEBOOKS[name]
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") + output.get("data", {}).get("text/markdown", "") for output in outputs)
    for line in expected:
        assert line in text
    assert sum("image/png" in output.get("data", {}) for output in outputs) == figures
