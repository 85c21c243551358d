"""A forked process behaves like a started one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.forkserver import ForkedProcess
from tests.support.processes import Child, alive, free_port
from tests.support.waiting import wait_until

both = pytest.mark.parametrize("forked", [False, True])


@both
def test_arguments_directory_output_and_exit_code(tmp_path: Path, forked: bool) -> None:
    (tmp_path / "good.json").write_text('{"a": 1}')
    arguments = ["-m", "json.tool", "--compact"]
    good = Child([*arguments, "good.json"], {}, tmp_path / "good.log", tmp_path, forked=forked)
    assert (good.process.wait(20), good.output) == (0, '{"a":1}\n')
    bad = Child([*arguments, "bad.json"], {}, tmp_path / "bad.log", tmp_path, forked=forked)
    assert bad.process.wait(20) == 2
    assert "bad.json" in bad.output


def _serving(folder: Path, forked: bool) -> Child:
    port = free_port()
    arguments = ["-m", "http.server", "--bind", "127.0.0.1", str(port)]
    child = Child(arguments, {}, folder / "server.log", folder, forked=forked)
    child.wait_for(f"http://127.0.0.1:{port}/")
    return child


@both
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_is_the_exit_code(tmp_path: Path, forked: bool, number: signal.Signals) -> None:
    child = _serving(tmp_path, forked)
    assert alive(child.process.pid)
    assert child.process.poll() is None
    child.process.send_signal(number)
    assert child.process.wait(20) == -number
    child.process.send_signal(number)  # it has ended: no effect
    assert child.stop() == -number


async def test_it_ends_with_the_process_that_forked_it(tmp_path: Path) -> None:
    child = _serving(tmp_path, forked=True)
    assert isinstance(child.process, ForkedProcess)
    pid = child.process.pid
    child.process._line.close()  # as the end of its client's process does
    await wait_until(lambda: not alive(pid))
