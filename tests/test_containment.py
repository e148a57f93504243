"""A process of its own for reading: its end is told on one line; all else is as if it were not there."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="no containment on this platform")


def contained(work: str, **options: object) -> subprocess.CompletedProcess[str]:
    """What a program does that has `work`, some lines of Python, done in a contained process."""
    lines = "\n    ".join(work.splitlines())
    code = (
        "import os, signal, sys, time\nfrom probe import containment\n"
        f"def work():\n    {lines}\n"
        "def told(line):\n    print('probe:', line, file=sys.stderr)\n"
        "code = containment.contained(work, told)\nsys.stdout.flush()\nsys.exit(code)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, **options
    )


@pytest.mark.parametrize("code", [0, 1, 2, 3, 130])
def test_exit_codes_and_output_pass(code: int) -> None:
    done = contained(f"print('out')\nprint('err', file=sys.stderr)\nreturn {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "out\n", "err\n")


def test_standard_input_is_the_childs() -> None:
    assert contained("print(sys.stdin.read().upper(), end='')\nreturn 0", input="text").stdout == "TEXT"


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL"])
def test_a_crash_is_one_line_and_exit_2(name: str) -> None:
    done = contained(f"with containment.opening('some.h5', 0):\n    os.kill(os.getpid(), signal.{name})\nreturn 0")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for part in (
        "reading some.h5",
        name if name != "SIGKILL" else "killed",
        "; expected a whole recording",
        "capture it",
    ):
        assert part in done.stderr


def test_a_real_segmentation_fault_is_contained() -> None:
    done = contained("import ctypes\nctypes.string_at(0)\nreturn 0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "SIGSEGV" in done.stderr


def test_opening_that_never_ends_is_ended() -> None:
    busy = "containment.READING = 0.3\nwith containment.opening('some.h5', 0):\n    while True: pass"
    started = time.monotonic()
    done = contained(busy)
    assert done.returncode == 2
    assert "some.h5 takes longer to open than its size allows; expected" in done.stderr
    assert time.monotonic() - started < 20


def test_what_comes_after_opening_has_no_limit() -> None:
    work = (
        "containment.READING = 0.2\nwith containment.opening('some.h5', 0): pass\n"
        "end = time.process_time() + 0.5\nwhile time.process_time() < end: pass\nreturn 0"
    )
    assert contained(work).returncode == 0


def test_memory_beyond_what_arrays_account_for_is_refused() -> None:
    work = "containment.limit_memory(0)\ntry:\n    bytearray(4 << 30)\nexcept MemoryError:\n    return 7\nreturn 0"
    assert contained(work).returncode == 7
    assert contained(work.replace("limit_memory(0)", "limit_memory(4 << 30)")).returncode == 0


def test_outside_a_contained_process_nothing_is_limited() -> None:
    from probe import containment

    with containment.opening("some.h5", 0):
        assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    containment.limit_memory(0)
    assert len(bytearray(2 << 30)) == 2 << 30


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", -signal.SIGTERM), ("SIGHUP", -signal.SIGHUP)])
def test_signals_to_the_parent_reach_the_child(name: str, code: int, tmp_path: Path) -> None:
    """As `kill` sends them; those of a terminal reach both by themselves."""
    program = (
        "import signal, sys, time\nfrom pathlib import Path\nfrom probe import containment\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def work():\n    Path('ready').touch()\n    try:\n        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n        return 130\n    return 0\n"
        "sys.exit(containment.contained(work, print))\n"
    )
    # Started by nohup, or in the background of a shell, the tests would hand on that it is ignored.
    heard = functools.partial(signal.signal, getattr(signal, name), signal.SIG_DFL)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, preexec_fn=heard)
    until = time.monotonic() + 30
    while not (tmp_path / "ready").exists() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(getattr(signal, name))
    assert process.wait(timeout=30) == code


def test_an_interrupt_from_a_terminal_comes_once(tmp_path: Path) -> None:
    """Ctrl-C in a terminal: the whole foreground is told by the kernel, and the parent tells nobody again."""
    import pty

    program = (
        "import signal, sys, time\nfrom probe import containment\n"
        "def work():\n    seen = []\n    signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "    print('ready', flush=True)\n    end = time.monotonic() + 2\n"
        "    while time.monotonic() < end:\n        time.sleep(0.1)\n    return 40 + len(seen)\n"
        "sys.exit(containment.contained(work, print))\n"
    )
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", program])
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 100)
    os.write(terminal, b"\x03")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 41


def test_the_end_of_the_parent_is_the_childs(tmp_path: Path) -> None:
    program = (
        "import os, time\nfrom pathlib import Path\nfrom probe import containment\n"
        "def work():\n    Path('child.tmp').write_text(str(os.getpid()))\n    os.rename('child.tmp', 'child')\n"
        "    time.sleep(60)\n    return 0\ncontainment.contained(work, print)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
    until = time.monotonic() + 30
    while not (tmp_path / "child").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.wait(timeout=10)
    child = int((tmp_path / "child").read_text())
    time.sleep(0.3)
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split(") ")[1][0] in "ZX"


def test_the_installed_command_is_contained_and_calls_from_python_are_not(full: Path) -> None:
    code = (
        "import os, sys\nimport probe.cli as cli\nstarted = os.getpid()\n"
        "def told(self, *_):\n    print(os.getpid() != started)\n    return 0\n"
        "cli.Commands._guarded = told\nsys.argv = ['probe', 'accuracy', 'x.h5']\n"
        "try: cli.main({})\nexcept SystemExit: pass\n"
    )
    for arguments, expected in (("", "True"), ("args=['accuracy', 'x.h5']", "False")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments)], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[0] == expected, done.stderr
