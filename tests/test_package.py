"""What is shipped: a wheel with everything the package reads, and an import that stays cheap."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


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
    assert sources | {"lstsd_hf/glue/results.schema.json"} <= names
    assert not any(name.startswith("tests/") for name in names)
