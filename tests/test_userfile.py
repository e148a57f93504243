"""A user's own code by name: what is found, what it may not disturb, and what each mistake is answered with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from probe import userfile
from probe.cli import Commands
from probe.errors import Interrupted, ProbeError
from probe.userfile import call, resolve, takes

Write = Callable[..., str]


@pytest.fixture(autouse=True)
def as_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is imported from the test's folder, and the folders put on the path, do not outlive the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file into the current, else empty folder."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> str:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(text)
        return name

    return write


def refused(spec: str, *parts: str) -> ProbeError:
    """The error that `resolve` gives: one line that has all the parts."""
    with pytest.raises(ProbeError) as caught:
        resolve(spec)
    return has(caught.value, *parts)


def has(error: ProbeError, *parts: str) -> ProbeError:
    line = str(error)
    assert "\n" not in line
    for part in parts:
        assert part in line
    return error


def test_attribute_of_a_file_and_of_a_module(write: Write) -> None:
    write("nets/model.py", "class Nets:\n    small = 3\ndef build(): return 7\n")
    assert resolve("nets/model.py:build")() == 7
    assert resolve("nets/model.py:Nets.small") == 3
    assert resolve(str(Path.cwd() / "nets" / "model.py") + ":build")() == 7
    write("package_of_mine/__init__.py", "")
    write("package_of_mine/inner.py", "value = 5\n")
    assert resolve("package_of_mine.inner:value") == 5
    assert resolve("collections.abc:Mapping.get").__name__ == "get"


def test_a_colon_in_a_folder(write: Write) -> None:
    assert resolve(write("a:b/model.py", "value = 2\n") + ":value") == 2
    refused("a:b/model.py", "a:b/model.py names no attribute")


def test_a_file_is_imported_once(write: Write) -> None:
    write("model.py", "import pathlib\nwith open('log', 'a') as log: log.write('x')\ndef build(): ...\n")
    first = resolve("model.py:build")
    assert resolve(str(Path.cwd() / "model.py") + ":build") is first
    assert Path("log").read_text() == "x"


def test_a_failed_import_is_not_kept(write: Write) -> None:
    before = list(sys.path)
    write("sub/model.py", "raise ValueError('not yet')\n")
    refused("sub/model.py:build", "not yet")
    assert sys.path == before
    write("sub/model.py", "def build(): return 'now, and of another length'\n")
    assert resolve("sub/model.py:build")().startswith("now")


def test_files_beside_it_are_found_also_later(write: Write) -> None:
    write("sub/beside_1.py", "value = 1\n")
    write("sub/beside_2.py", "value = 2\n")
    write(
        "sub/model.py",
        "import beside_1\ndef build():\n    import beside_2\n    return beside_1.value, beside_2.value\n",
    )
    assert call("sub/model.py:build", resolve("sub/model.py:build")) == (1, 2)


def test_same_name_as_another_module(write: Write) -> None:
    """Neither of two files of one name, nor a module that is already imported, takes another's place."""
    import json

    for folder in ("one", "two"):
        write(f"{folder}/json.py", f"import json\nwhere, dumps = {folder!r}, json.dumps([1])\n")
    assert (resolve("one/json.py:where"), resolve("two/json.py:where")) == ("one", "two")
    assert resolve("one/json.py:dumps") == "[1]"
    assert sys.modules["json"] is json


def test_same_name_as_an_installed_module_that_is_not_imported_yet(write: Write) -> None:
    write("sub/safetensors.py", "def build():\n    import safetensors.torch\n    return safetensors.torch.save_file\n")
    write("sub/wave.py", "import wave\ndef build(): return wave.open\n")
    code = (
        "import sys; assert not {'wave', 'safetensors'} & set(sys.modules)\n"
        "from probe.userfile import resolve\n"
        "for name in ('safetensors', 'wave'): print(resolve(f'sub/{name}.py:build')().__name__)\n"
    )
    root = str(Path(userfile.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path.append({root!r})\n{code}"], capture_output=True)
    assert done.stdout.decode().split() == ["save_file", "open"], done.stderr.decode()


@pytest.mark.parametrize("spec", ["", ":", ":build", "a b:c", "file.py:1x", "module:a..b", "module:a."])
def test_no_spec(spec: str, write: Write) -> None:
    refused(spec, "expected path/to/file.py:attribute or package.module:attribute")


def test_no_such_file(write: Write) -> None:
    write("model.py", "")
    write("train.py", "")
    refused("modle.py:build", "no file modle.py; expected a Python file; the current folder has model.py")
    refused("other.py:build", "the current folder has model.py, train.py")
    refused("nowhere/model.py:build", "no file nowhere/model.py", "nowhere has no Python file")
    refused("models/net:build", "no file models/net")
    write("folder/x.txt", "")
    refused("folder/:build", "folder/ is a folder")
    refused("x" * 300 + ".py:build", "no file xxx")
    refused("~no_such_user/model.py:build", "no file ~no_such_user/model.py")
    refused("folder/x.txt:build", "folder/x.txt is no Python file")


def test_no_such_module(write: Write) -> None:
    error = refused("no_such.module:build", "no module no_such.module; expected one that is installed", "pass path/to/")
    assert not error.trace
    write("nets.py", "")
    refused("nets.model:build", "no module nets.model")
    write("deep/model.py", "")
    write("deep/__init__.py", "")
    refused("deep.modle:build", "no module deep.modle")
    write("a_file/with-dash.py", "")
    refused("a_file/with-dash:build", "no file a_file/with-dash", "with-dash.py")
    refused("with-dash:build", "'with-dash' is neither a file nor a module")
    refused("..nets:build", "'..nets' is neither a file nor a module")


def test_no_such_attribute(write: Write) -> None:
    write("model.py", "import os\nfrom pathlib import Path\nlimit = 3\ndef build_net(): ...\nclass Net: depth = 2\n")
    refused("model.py:buildnet", "model.py has no attribute buildnet; it has build_net")
    refused("model.py:zzz", "no attribute zzz; it has build_net, Net")
    refused("model.py:Net.deptt", "model.py.Net has no attribute deptt; it has depth")
    refused("model.py:limit.zzz", "model.py.limit has no attribute zzz; and none like it")
    for spec in ("model.py", "model.py:"):
        refused(spec, "names no attribute", "expected model.py:NAME", "it has build_net, Net")
    refused("json", "json names no attribute", "it has dump")
    refused(write("none.py", "x = 1\n"), "it defines no function or class")
    refused(write("many.py", "\n".join(f"def f{i}(): ..." for i in range(20))), "f7 and 12 more")


def test_an_attribute_that_raises(write: Write) -> None:
    write("model.py", "def __getattr__(name): raise RuntimeError('no ' + name)\n")
    assert "in __getattr__" in refused("model.py:build", "model.py:build raised RuntimeError: no build").trace


def test_a_file_that_raises(write: Write) -> None:
    write("beside_3.py", "def work():\n    import json\n    json.loads('{')\n")
    write("model.py", "import beside_3\n\nbeside_3.work()\n")
    trace = refused("model.py:build", "model.py raised JSONDecodeError: Expecting").trace
    assert 'model.py", line 3, in <module>\n    beside_3.work()' in trace
    assert 'beside_3.py", line 3, in work' in trace
    assert "decoder.py" not in trace
    assert "userfile.py" not in trace
    assert "importlib" not in trace
    assert trace.splitlines()[-1].startswith("json.decoder.JSONDecodeError")


def test_a_missing_dependency_is_the_files_error(write: Write) -> None:
    write("model.py", "import no_such_dependency\n")
    for spec in ("model.py:build", "model:build"):
        error = refused(spec, "raised ModuleNotFoundError: No module named 'no_such_dependency'")
        assert "import no_such_dependency" in error.trace


def test_relative_import(write: Write) -> None:
    write("relative/other.py", "value = 4\n")
    write("relative/model.py", "from .other import value\n")
    refused("relative/model.py:value", "attempted relative import", "name it package.module:attribute")
    assert resolve("relative.model:value") == 4


def test_syntax_error(write: Write) -> None:
    write("model.py", "x = 1\ndef build(:\n")
    error = refused("model.py:build", "model.py, line 2: SyntaxError: ")
    assert "def build(:" in error.trace
    write("other.py", "import broken_beside\n")
    write("broken_beside.py", "\n\nif True:\nx = 1\n")
    error = refused("other.py:build", "broken_beside.py, line 4: IndentationError: ")
    assert 'other.py", line 1' in error.trace
    refused(write("compiles.py", "compile('1 +', '<text>', 'exec')\n"), "compiles.py raised SyntaxError")
    Path("latin.py").write_bytes(b"x = '\xe9'\n")
    refused("latin.py:x", "SyntaxError")
    Path("zero.py").write_bytes(b"x = '\0'\n")
    refused("zero.py:x", "null bytes")


def test_exit_and_interrupt(write: Write) -> None:
    error = refused(write("script.py", "import sys\nsys.exit(3)\n"), "script.py called sys.exit(3)", "__main__")
    assert "sys.exit(3)" in error.trace
    refused(write("quiet.py", "raise SystemExit\n"), "quiet.py called sys.exit();")
    with pytest.raises(KeyboardInterrupt):
        resolve(write("stopped.py", "raise KeyboardInterrupt\n"))
    assert not any(name.endswith("stopped") for name in sys.modules)
    for passed in (KeyboardInterrupt(), Interrupted("after batch 2"), ProbeError("as it is")):
        with pytest.raises(type(passed)) as caught:
            call("f", lambda passed=passed: (_ for _ in ()).throw(passed))
        assert caught.value is passed


def test_a_callable_that_raises(write: Write) -> None:
    write(
        "model.py",
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x): return torch.ones(2) @ torch.ones(3)\n"
        "def build(width=1):\n"
        "    return Net()(width)\n"
        "def chained():\n"
        "    try: {}['a']\n"
        "    except KeyError as error: raise ValueError('first\\nsecond') from error\n"
        "def mute(): raise ValueError\n"
        "def long(): raise ValueError('x' * 5000)\n"
        "class Odd(Exception):\n"
        "    def __str__(self): return 1 / 0\n"
        "def odd(): raise Odd\n"
        "def typed(a): return 'a' + 1\n",
    )

    def raised(name: str, **arguments: Any) -> ProbeError:
        with pytest.raises(ProbeError) as caught:
            call(f"model.py:{name}", resolve(f"model.py:{name}"), **arguments)
        return caught.value

    error = has(raised("build"), "model.py:build raised RuntimeError: ")
    assert "in build" in error.trace
    assert "in forward" in error.trace
    assert "_call_impl" not in error.trace
    assert "userfile.py" not in error.trace
    error = has(raised("chained"), "model.py:chained raised ValueError: first second")
    assert "direct cause" in error.trace
    assert "first\nsecond" in error.trace
    assert str(raised("mute")) == "model.py:mute raised ValueError"
    assert len(str(raised("long"))) < 400
    assert str(raised("odd")) == "model.py:odd raised Odd"
    has(raised("typed", a=1), "model.py:typed raised TypeError: can only concatenate")
    assert "in typed" in raised("typed", a=1).trace


def test_where_no_frame_is_the_users() -> None:
    """What an installed package raises is shown in its own frames."""
    with pytest.raises(ProbeError) as caught:
        call("json:loads", resolve("json:loads"), s="{")
    trace = caught.value.trace
    assert "decoder.py" in trace
    assert "userfile.py" not in trace


def test_arguments_that_do_not_fit() -> None:
    def build(width: int, depth: int = 3) -> tuple[int, int]:
        return width, depth

    class Net:
        def __init__(self, width: int) -> None:
            self.width = width

    def refuses(function: object, **arguments: object) -> str:
        with pytest.raises(ProbeError) as caught:
            call("m:f", function, **arguments)
        assert not caught.value.trace
        return str(caught.value)

    assert call("m:f", build, width=1, depth=2) == (1, 2)
    assert call("m:f", Net, width=1).width == 1
    assert call("m:f", dict, spec=1, function=2) == {"spec": 1, "function": 2}
    assert refuses(build) == "m:f: missing a required argument: 'width'; expected its parameters width, depth=3"
    assert "unexpected keyword argument 'height'; expected its parameters width" in refuses(build, width=1, height=2)
    assert refuses(Net, wide=1).endswith("expected its parameters width")
    assert refuses(lambda: 1, x=1).endswith("unexpected keyword argument 'x'; expected no parameters")
    assert refuses(3) == "m:f is of type int; expected a function or class to call"


def test_takes() -> None:
    def build(both: int, /, named: int, *rest: int, only: int = 1, **others: int) -> None: ...

    assert [takes(build, name) for name in ("both", "named", "rest", "only", "others", "none")] == [
        *(False, True, False, True, False, False)
    ]
    assert not takes(3, "named")
    assert not takes(dict, "named")


def test_the_trace_comes_before_the_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import click

    def invoke(*_: object, **__: object) -> None:
        raise ProbeError("f:g raised E", trace="first\n  \x1b[31msecond")

    monkeypatch.setattr(click.Group, "main", invoke)
    with pytest.raises(SystemExit) as left:
        Commands("probe").main([])
    assert left.value.code == 2
    assert capsys.readouterr() == ("", "first\n  \\x1b[31msecond\nprobe: f:g raised E\n")
