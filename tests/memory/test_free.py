"""Free memory, also where a container allows less than the machine has."""

import psutil
import pytest

from lstsd_hf.memory.free import free_memory

PLENTY = 2**40


def group(folder, names, limit, use, stat):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip((*names, "memory.stat"), (limit, use, stat), strict=True):
        (folder / name).write_text(f"{content}\n")


V1 = "memory.limit_in_bytes", "memory.usage_in_bytes"
V2 = "memory.max", "memory.current"


@pytest.fixture
def process(tmp_path, monkeypatch):
    """Writes which groups a process is in, on a machine with much memory."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": PLENTY}))

    def write(text):
        (tmp_path / "of_process").write_text(text)
        return tmp_path / "groups", tmp_path / "of_process"

    return write


def test_a_machine_without_groups(tmp_path, process):
    assert free_memory(tmp_path / "none", tmp_path / "none_either") == PLENTY
    assert free_memory(*process("0::/\n")) == PLENTY


def test_the_limit_of_any_group_on_the_way_counts(process):
    groups, of_process = process("0::/pod/container\n")
    group(groups / "pod", V2, 1000, 700, "anon 600\ninactive_file 50")
    group(groups / "pod" / "container", V2, "max", 500, "inactive_file 50")
    # What files take goes when it is needed.
    assert free_memory(groups, of_process) == 350
    group(groups / "pod" / "container", V2, 600, 500, "inactive_file 0")
    assert free_memory(groups, of_process) == 100
    group(groups / "pod" / "container", V2, 400, 500, "inactive_file 0")
    assert free_memory(groups, of_process) == 0


@pytest.mark.parametrize("path", ["/", "/docker/0123456789", "/../outside"])
def test_a_container_that_sees_its_own_group_as_the_root(process, path):
    groups, of_process = process(f"0::{path}\n")
    group(groups, V2, 1000, 100, "inactive_file 0")
    assert free_memory(groups, of_process) == 900


def test_groups_of_the_older_form(process):
    groups, of_process = process("3:cpu,cpuacct:/\n2:hugetlb,memory:/docker/0123456789\n0::/\n")
    group(groups / "memory", V1, 2000, 500, "total_inactive_file 100\ninactive_file 7")
    assert free_memory(groups, of_process) == 1600
    # Without a limit the kernel shows a large number.
    group(groups / "memory", V1, 9223372036854771712, 500, "")
    assert free_memory(groups, of_process) == PLENTY
