"""``%load_ext nbmr`` in a real kernel: ``%%nbmr`` runs on every worker, ``%nbmr`` tells how things are."""

from __future__ import annotations

import pytest
from jupyter_client.manager import start_new_kernel


@pytest.fixture
def run(server):
    """Run a cell in a kernel; return its reply and what it printed."""
    manager, talk = start_new_kernel()

    def run(code):
        printed = []

        def on_output(message):
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])
            elif message["msg_type"] == "execute_result":
                printed.append(message["content"]["data"]["text/plain"])

        reply = talk.execute_interactive(code, timeout=60, output_hook=on_output)
        return reply["content"], "".join(printed)

    try:
        yield run
        run("import nbmr.api; nbmr.api.client().close()")
    finally:
        talk.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy()


def test_the_magics(client, queue, run):
    with client.workers(2, queue=queue):
        assert run("%load_ext nbmr")[0]["status"] == "ok"
        names = {worker.worker for worker in client.workers_seen(queue)}
        content, printed = run(
            f"%%nbmr --queue {queue}\nimport math as theirs\nprint('hello')\n!echo by the shell\n6 * 7"
        )
        assert content["status"] == "ok", content
        blocks = dict(block.partition("\n")[::2] for block in printed.split("── ")[1:])
        assert blocks == dict.fromkeys(names, "hello\nby the shell\n42\n")
        content, printed = run(
            f"import nbmr\nprint(nbmr.map([4], lambda x: theirs.sqrt(x), queue={queue!r}, progress=False))"
        )
        assert printed == "[2.0]\n", content  # the kernel itself knows no such name
        content, printed = run(f"%%nbmr --queue {queue}\nx = 0\n1 / x")
        assert (content["status"], content["ename"]) == ("error", "TaskError")
        assert "ZeroDivisionError" in content["evalue"]
        assert printed.count("1 / x") == 2  # each worker's traceback
        content, printed = run("%nbmr")
        assert content["status"] == "ok"
        assert "broker: private node at 127.0.0.1:" in printed
        assert f"queue {queue}: 2 workers" in printed
        assert "jobs: none" in printed


@pytest.mark.parametrize(
    ("cell", "name", "text"),
    [
        ("%%nbmr --quux a\n1", "UsageError", "--quux"),
        ("%%nbmr --queue\n1", "UsageError", "expected one argument"),
        ("%%nbmr --queue 'a\n1", "UsageError", "quotation"),
        ("%%nbmr\n \n", "UsageError", "body"),
        ("%%nbmr --queue a/b\n1", "ConfigError", "not a queue's name"),
        ("%%nbmr\nx =", "SyntaxError", "invalid syntax"),
        ("%%nbmr\n%matplotlib inline", "ConfigError", "%matplotlib"),
        ("%nbmr now", "UsageError", "no arguments"),
    ],
)
def test_what_is_wrong_is_told(run, cell, name, text):
    run("%load_ext nbmr")
    content, printed = run(cell)
    assert (content["status"], content["ename"]) == ("error", name), content
    assert text in content["evalue"] + printed
