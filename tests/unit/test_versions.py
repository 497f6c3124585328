from __future__ import annotations

import subprocess
import sys

import pytest

from nbmr.versions import local_versions, mismatch

HERE = {"python": "3.11.7", "pandas": "3.0.1", "numpy": "2.1.0", "cloudpickle": "3.1.0", "nbmr": "0.1.3"}


@pytest.mark.parametrize(
    ("package", "other"),
    [
        ("python", "3.12.0"),
        ("pandas", "2.3.3"),
        ("numpy", "1.26.4"),
        ("cloudpickle", "2.2.1"),
        ("nbmr", "0.2.0"),
    ],
)
def test_what_does_not_mix(package: str, other: str) -> None:
    message = mismatch(HERE, {**HERE, package: other})
    assert message is not None
    assert f"{HERE[package]} on the client" in message
    assert f"{other} on the worker" in message


@pytest.mark.parametrize(
    ("package", "other"),
    [
        ("python", "3.11.12"),
        ("pandas", "3.1.0"),
        ("numpy", "2.4.0"),
        ("cloudpickle", "3.0.0"),
        ("nbmr", "0.1.9"),
    ],
)
def test_what_mixes(package: str, other: str) -> None:
    assert mismatch(HERE, {**HERE, package: other}) is None


def test_major_versions_are_compared_as_numbers() -> None:
    assert mismatch({"python": "3.1.0"}, {"python": "3.11.0"}) is not None
    assert mismatch({"numpy": "2.0"}, {}) is None


def test_every_fault_is_told() -> None:
    message = mismatch(HERE, {**HERE, "python": "3.12.0", "pandas": "2.3.3"})
    assert message is not None
    assert len(message.splitlines()) == 2


def test_local_versions_import_nothing() -> None:
    code = (
        "import sys; from nbmr.versions import local_versions as f; v = f()\n"
        "assert not {'pandas', 'numpy', 'cloudpickle'} & set(sys.modules); print(v['pandas'], v['python'])"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed.split() == [
        sys.modules["pandas"].__version__ if "pandas" in sys.modules else local_versions()["pandas"],
        sys.version.split()[0],
    ]
