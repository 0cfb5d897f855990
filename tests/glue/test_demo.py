"""The demo tells its story from end to end."""

import re

import pytest

from lstsd_hf.glue import demo


@pytest.mark.slow
def test_the_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "ARGUMENTS", (*demo.ARGUMENTS, "--num_train_epochs", "3"))
    demo.main(["--output_dir", str(tmp_path / "demo"), "--cache_dir", str(tmp_path / "cache")])
    shown = capsys.readouterr().out
    assert shown.startswith("GENERATED DATA, not GLUE: 400 sentences")
    (found,) = re.findall(r"Of the 50 labels believed least, (\d+) are planted", shown)
    assert int(found) > 20
    assert re.search(r"\| as given +\| 80 ", shown)
    assert (tmp_path / "demo" / "before" / "dynamics" / "report" / "report.html").is_file()
