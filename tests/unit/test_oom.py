"""What the kernel's counter of out-of-memory kills says about a SIGKILL."""

from __future__ import annotations

import sys

import pytest

from nbmr.worker import oom


@pytest.fixture
def counts(tmp_path):
    """A file as the kernel's, which counts 3 kills."""
    file = tmp_path / "vmstat"
    file.write_text("nr_free_pages 17\noom_kill 3\noom_kill_other 99\n")
    return file


def test_a_kill_that_was_counted_meanwhile(counts):
    kills = oom.Kills(counts)
    kills.note()
    counts.write_text("oom_kill 4\n")
    assert "by the system's out-of-memory killer" in kills.verdict()
    assert "perhaps" not in kills.verdict()


def test_one_that_was_counted_before_is_not_told_again(counts):
    kills = oom.Kills(counts)
    kills.note()
    counts.write_text("oom_kill 4\n")
    kills.verdict()
    kills.note()
    assert kills.verdict() == ""


def test_a_kill_by_somebody_else(counts):
    kills = oom.Kills(counts)
    kills.note()
    assert kills.verdict() == ""


@pytest.mark.parametrize("text", [None, "nr_free_pages 17\n", "oom_kill many\n"])
def test_where_the_kernel_does_not_tell(tmp_path, text):
    file = tmp_path / "vmstat"
    if text is not None:
        file.write_text(text)
    kills = oom.Kills(file)
    kills.note()
    assert "perhaps" in kills.verdict()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts")
def test_this_kernel_tells():
    assert oom.kills() is not None
