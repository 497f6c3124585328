from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nbmr
from nbmr import topology
from nbmr.errors import ConfigError
from nbmr.topology import check_queue

PACKAGE = Path(nbmr.__file__).parent
EVERY = [
    topology.task_queue("gpu"),
    topology.dead_queue("gpu"),
    topology.job_log("ab"),
    topology.blob("ab", "fn"),
    topology.control_stream(),
    topology.key_stream(),
    topology.inbox("ab", "gpu"),
    topology.own_queue("ab", 0),
    topology.viewer("ab"),
]


@pytest.mark.parametrize("name", ["default", "gpu", "a", "A-b_c.d2", "0", "x" * 200])
def test_names_of_queues(name):
    assert check_queue(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a/b", ".a", "a.", "a..b", "#", "*", "a.*", "ü", "a\n", "x" * 201, None, 5, b"a"]
)
def test_what_is_no_name_of_a_queue(name):
    with pytest.raises(ConfigError, match=r"no|not"):
        check_queue(name)


def test_names_do_not_meet():
    names = [queue.name for queue in EVERY]
    assert len(set(names)) == len(names)
    assert all(name.startswith("nbmr.") for name in names)


@pytest.mark.parametrize("queue", EVERY, ids=lambda queue: queue.name)
def test_nothing_is_declared_that_rabbitmq_4_refuses(queue):
    kinds = ("classic",) if queue.exclusive else ("quorum", "stream")  # what is transient has to be exclusive
    assert queue.arguments["x-queue-type"] in kinds
    assert not {"x-queue-mode", "x-ha-policy", "x-max-priority", "x-expires"} & set(queue.arguments)


def test_a_task_that_was_given_back_too_often_goes_to_the_dead():
    tasks, dead = topology.task_queue("gpu"), topology.dead_queue("gpu")
    assert tasks.arguments["x-delivery-limit"] == topology.DELIVERY_LIMIT == topology.ATTEMPTS - 1
    assert tasks.arguments["x-dead-letter-exchange"] == dead.exchange
    assert tasks.arguments["x-dead-letter-routing-key"] == dead.key == "gpu"
    assert "x-dead-letter-exchange" not in dead.arguments


def test_messages_stay_below_what_brokers_take():
    assert topology.CHUNK_BYTES <= topology.MESSAGE_BYTES == 8 << 20
    assert topology.INLINE_BYTES == 64 << 10


def strings(file):
    """Every string constant of a module, without docstrings."""
    tree = ast.parse(file.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_wire_names_stand_in_topology_alone():
    for file in PACKAGE.rglob("*.py"):
        if file.name == "topology.py":
            continue
        for text in strings(file):
            assert not text.startswith(
                (
                    "nbmr.tasks.",
                    "nbmr.dead",
                    "nbmr.job.",
                    "nbmr.control",
                    "nbmr.events",
                    "nbmr.inbox",
                    "nbmr.viewer",
                    "x-dead-letter",
                )
            )
            assert text not in ("x-queue-type", "x-delivery-limit", "quorum", "worker.#")
            assert text != "nbmr.key" or file.name == "joining.py"  # there it is a file


def test_pika_is_imported_by_the_broker_package_alone():
    for file in PACKAGE.rglob("*.py"):
        if file.parent.name != "broker":
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not [name for name in names if name.partition(".")[0] == "pika"], file
