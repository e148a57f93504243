"""A user's own code by name, `path/to/file.py:attribute` or `package.module:attribute`: found, imported and called."""

from __future__ import annotations

import inspect
import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from hashlib import sha256
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from probe.errors import Interrupted, ProbeError

FORMS = "path/to/file.py:attribute or package.module:attribute"
LISTED = 8
"""An error names at most this many choices."""
TEXT_LENGTH = 300
"""The one line of an error quotes at most this much of what the user's code said; its traceback has all of it."""

_OURS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_LIBRARIES = tuple(os.path.join(sysconfig.get_path(kind), "") for kind in ("stdlib", "platstdlib"))
_PASSED_ON = (KeyboardInterrupt, Interrupted, ProbeError)


def resolve(spec: str) -> Any:
    """The object that `spec` names; the file or module behind it is imported once.

    The file's folder (for a module the current one) stays in front on `sys.path`, as with `python file.py`: what the
    user's code imports later is found too. A file does not take the place of an installed module of its name.

    Args:
        spec: `path/to/file.py:attribute` or `package.module:attribute`; the attribute may have dots.

    Raises:
        ProbeError: there is no such file, module or attribute, or it raises while it is imported.
    """
    source, attribute = _split(spec)
    is_file = source.endswith(".py") or "/" in source or os.sep in source or os.path.isfile(source)
    module = _import_file(source) if is_file else _import_module(source)
    if not attribute:
        raise ProbeError(
            f"{spec} names no attribute",
            expected=f"{source}:NAME",
            next_step=_choices("it has", _callables(module), "it defines no function or class"),
        )
    found: Any = module
    for depth, name in enumerate(parts := attribute.split(".")):
        with _user_code(f"{source}:{'.'.join(parts[: depth + 1])}"):
            try:
                found = getattr(found, name)
            except AttributeError:
                owner = ".".join([source, *parts[:depth]]) if depth else source
                raise _no_attribute(owner, found, name) from None
    return found


def call(spec: str, function: Any, /, **arguments: Any) -> Any:
    """What `function` returns for `arguments`.

    Args:
        spec: how the user named it, for errors.
        function: what `resolve` gave.
        arguments: passed on by name.

    Raises:
        ProbeError: it does not take these arguments, or it raises; `trace` then holds the user's part of the traceback.
    """
    if not callable(function):
        raise ProbeError(f"{spec} is of type {type(function).__name__}", expected="a function or class to call")
    signature = _signature(function)
    if signature is not None:
        try:
            signature.bind(**arguments)
        except TypeError as error:
            takes_no = "no parameters" if not signature.parameters else f"its parameters {_parameters(signature)}"
            raise ProbeError(f"{spec}: {error}", expected=takes_no) from None
    with _user_code(spec):
        return function(**arguments)


def takes(function: Any, name: str) -> bool:
    """True where `function` has a parameter that can be passed as `name=`; a `**rest` does not count."""
    signature = _signature(function)
    if signature is None or name not in signature.parameters:
        return False
    kind = signature.parameters[name].kind
    return kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def listed(names: Iterable[str], most: int = LISTED) -> str:
    """Names on one line, the first few and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


# ----------------------------------------------------------------------------------------------------- importing


def _split(spec: str) -> tuple[str, str]:
    """The file or module, and the attribute, empty where none is given."""
    source, colon, attribute = spec.rpartition(":")
    if not colon or spec.endswith(".py") or "/" in attribute or os.sep in attribute:
        source, attribute = spec, ""
    if not source or not all(part.isidentifier() for part in attribute.split(".") if attribute):
        raise ProbeError(f"{spec!r} names no attribute of a file or module", expected=FORMS)
    return source, attribute


def _import_file(given: str) -> ModuleType:
    path = Path(os.path.expanduser(given))
    if os.path.isdir(path):
        raise ProbeError(f"{given} is a folder", expected="a Python file", next_step=f"name one: {given}/FILE.py:NAME")
    if not os.path.isfile(path):
        siblings = sorted(file.stem for file in path.parent.glob("*.py")) if os.path.isdir(path.parent) else []
        near = [f"{stem}.py" for stem in get_close_matches(path.stem, siblings) or siblings]
        folder = "the current folder" if path.parent == Path() else str(path.parent)
        raise ProbeError(
            f"no file {given}",
            expected="a Python file",
            next_step=_choices(f"{folder} has", near, f"{folder} has no Python file"),
        )
    if path.suffix != ".py":
        raise ProbeError(f"{given} is no Python file", expected=FORMS)
    path = path.resolve()
    # A name of its own: a file called torch.py or model.py stays apart from every other module of that name.
    name = f"probe_user_{sha256(os.fsencode(path)).hexdigest()[:12]}_{path.stem}"
    if name not in sys.modules:
        _import_installed(path.stem)
    with _on_path(path.parent), _user_code(given):
        if name in sys.modules:
            return sys.modules[name]
        found = spec_from_file_location(name, path)
        assert found is not None
        assert found.loader is not None
        module = module_from_spec(found)
        sys.modules[name] = module
        try:
            found.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
    return module


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ProbeError(f"{name!r} is neither a file nor a module", expected=FORMS)
    with _on_path(Path.cwd()), _user_code(name):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if not (name == missing or name.startswith(f"{missing}.")) or has_user_frame(error):
                raise
            as_file = Path(name.replace(".", os.sep) + ".py")
            raise ProbeError(
                f"no module {name}",
                expected="one that is installed or lies in the current folder",
                next_step=f"did you mean {as_file}?"
                if os.path.isfile(as_file)
                else "or pass path/to/file.py:attribute",
            ) from None


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Put `folder` in front on `sys.path`; it stays there unless the import fails."""
    before = list(sys.path)
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]
    try:
        yield
    except BaseException:
        sys.path[:] = before
        raise


def _import_installed(name: str) -> None:
    """Import an installed module called `name` now: once a file of that name is on the path, it could not be found."""
    entries = [entry for entry in sys.path if _is_library(os.path.join(entry, ""))]
    if name in sys.modules or PathFinder.find_spec(name, entries) is None:
        return
    before = list(sys.path)
    sys.path[:] = entries
    try:
        with suppress(Exception):
            import_module(name)
    finally:
        sys.path[:] = before


# ------------------------------------------------------------------------------------------------ naming choices


def _callables(owner: Any) -> list[str]:
    """The public callables of a module, its own before what it imported."""
    public = {name: value for name, value in vars(owner).items() if not name.startswith("_") and callable(value)}
    own = [name for name, value in public.items() if getattr(value, "__module__", None) == owner.__name__]
    return own or list(public)


def _choices(lead: str, names: list[str], otherwise: str) -> str:
    return f"{lead} {listed(names)}" if names else otherwise


def _no_attribute(owner: str, found: Any, name: str) -> ProbeError:
    near = get_close_matches(name, [known for known in dir(found) if not known.startswith("__")])
    if not near and isinstance(found, ModuleType):
        near = _callables(found)
    return ProbeError(f"{owner} has no attribute {name}", next_step=_choices("it has", near, "and none like it"))


def _signature(function: Any) -> inspect.Signature | None:
    """None where Python cannot tell, as for some functions written in C."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _parameters(signature: inspect.Signature) -> str:
    """As in `width, depth=3`, without annotations."""
    empty = inspect.Parameter.empty
    plain = [parameter.replace(annotation=empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=empty))[1:-1]


# --------------------------------------------------------------------------------------------- the user's errors


@contextmanager
def _user_code(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises into a ProbeError that speaks of `what`."""
    try:
        yield
    except _PASSED_ON:
        raise
    except SystemExit as error:
        code = "" if error.code is None else _shortened(error.code)
        raise ProbeError(
            f"{what} called sys.exit({code})",
            expected="code that returns",
            next_step="put what only a script does under if __name__ == '__main__':",
            trace=user_traceback(error),
        ) from None
    except SyntaxError as error:
        if not error.filename or error.filename.startswith("<"):
            raise _raised(what, error) from None
        where = f"{error.filename}, line {error.lineno}" if error.lineno else error.filename
        raise ProbeError(f"{where}: {type(error).__name__}: {error.msg}", trace=user_traceback(error)) from None
    except Exception as error:
        raise _raised(what, error) from None


def _raised(what: str, error: Exception) -> ProbeError:
    text = _shortened(error)
    relative = isinstance(error, ImportError) and "relative import" in text
    at, remedy = _about_super(error)
    return ProbeError(
        f"{at}{what} raised {type(error).__name__}{text and ': '}{text}",
        next_step="name it package.module:attribute from the folder above the package" if relative else remedy,
        trace=user_traceback(error),
    )


def _about_super(error: Exception) -> tuple[str, str]:
    """The line at which a class does not reach its base's constructor, and what to write there; else two empty texts.

    `super(Other, self)` names another class than the one it stands in, or none that there is; or the call is missing.
    """
    users = [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in
             traceback.walk_tb(error.__traceback__) if is_users(frame.f_code.co_filename)]  # fmt: skip
    if not users or not isinstance(error, TypeError | NameError | AttributeError):
        return "", ""
    file, line, function = users[-1]
    source = linecache.getline(file, line).strip()
    at = f"{file}, line {line}: {source}: "
    if "super(" in source and not source.startswith("super()"):
        return at, f"write super().{function}() there, which needs no name of a class"
    if "before Module.__init__() call" in str(error):
        return at, "write super().__init__() as the first line of its __init__"
    return "", ""


def _shortened(value: object) -> str:
    try:
        text = " ".join(str(value).split())
    except Exception:
        return ""
    return text if len(text) <= TEXT_LENGTH else f"{text[:TEXT_LENGTH]}..."


def user_traceback(error: BaseException) -> str:
    """The traceback of `error` without the frames that are not the user's (probe's, torch's, the standard library's).

    Where no frame is the user's, as in an installed package, all but probe's are kept.
    """
    summary = traceback.TracebackException.from_exception(error)
    _cut(summary)
    return "".join(summary.format()).rstrip("\n")


def _cut(summary: traceback.TracebackException) -> None:
    """Cut a traceback and those of its causes, in place."""
    users = [frame for frame in summary.stack if is_users(frame.filename)]
    summary.stack[:] = users or [frame for frame in summary.stack if not _is_ours(frame.filename)]
    for other in (summary.__cause__, summary.__context__, *(getattr(summary, "exceptions", None) or ())):
        if other is not None:
            _cut(other)


def has_user_frame(error: BaseException) -> bool:
    """True where an error went through the user's own code."""
    return any(is_users(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__))


def is_users(filename: str) -> bool:
    """True for code that is neither probe's, nor the standard library's, nor installed."""
    return not _is_ours(filename) and not _is_library(filename)


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OURS)


def _is_library(filename: str) -> bool:
    """True for the standard library, what is installed, and code without a file."""
    parts = Path(filename).parts
    installed = "site-packages" in parts or "dist-packages" in parts
    return installed or filename.startswith(_LIBRARIES) or filename.startswith("<")
