"""The API classes that multi-turn entries act on, from a folder that the user names.

    a path → Source (where code, function documents and entries lie; which version)
    Source, class names, initial configs → fresh objects

The files are read and executed one by one: the package around them is never imported, nothing is
written beside them, and `sys.modules` does not learn their names, so both versions live side by
side. Every `World` executes them anew: no object, and no list of a module, outlives a scoring.
"""

from __future__ import annotations

import builtins
import copy
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

Document = dict[str, Any]  # of one function: name, description, parameters

# Where the package lies below what people have: itself, an unpacked wheel, a checkout, a venv.
_PLACES = (
    ".",
    "bfcl_eval",
    "berkeley-function-call-leaderboard/bfcl_eval",
    "lib/python3*/site-packages/bfcl_eval",
)
_CODE = "eval_checker/multi_turn_eval/func_source_code"
_CLASS = re.compile(r"^class +([A-Za-z_]\w*)", re.MULTILINE)
_REMEDY = "give the folder that `pip install --no-deps --target FOLDER bfcl-eval==2025.8.6.2` made"


@dataclass(frozen=True)
class Source:
    """A folder with the API classes, their function documents and the entries."""

    root: Path
    version: str  # v3 or v4

    @property
    def code(self) -> Path:
        return self.root / _CODE

    @property
    def data(self) -> Path:
        return self.root / "data"


def find(path: str | Path) -> Source:
    """The classes and the data below a path; ValueError where there are none."""
    path = Path(path)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise ValueError(f"{path}: {what}; {_REMEDY}")
    for place in _PLACES:
        for root in sorted(path.glob(place)) if place != "." else [path]:
            if (root / _CODE).is_dir() and (root / "data").is_dir():
                return Source(root.resolve(), _version(root))
    raise ValueError(f"{path}: holds no multi-turn classes ({_CODE}); {_REMEDY}")


def _version(root: Path) -> str:
    for version in ("v3", "v4"):
        if (root / "data" / f"BFCL_{version}_multi_turn_base.json").is_file():
            return version
    missing = "BFCL_v3_multi_turn_base.json or BFCL_v4_multi_turn_base.json"
    raise ValueError(f"{root / 'data'}: has no {missing}; {_REMEDY}")


def file_of(source: Source, name: str) -> Path:
    """The file that defines a class."""
    for file in sorted(source.code.glob("*.py")):
        if file.stem != "long_context" and name in _CLASS.findall(read(file)):
            return file
    raise ValueError(
        f"{source.code}: no file defines class {name!r}, which an entry involves; {_REMEDY}"
    )


def documents(source: Source, name: str) -> list[Document]:
    """The documents of a class's functions, in the order of their file."""
    file = source.data / "multi_turn_func_doc" / f"{file_of(source, name).stem}.json"
    found = []
    for number, line in enumerate(read(file).splitlines(), 1):
        try:
            document = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}:{number}: is no JSON ({error}); {_REMEDY}") from None
        fields = document if isinstance(document, dict) else {}
        if not all(isinstance(fields.get(key), str) for key in ("name", "description")):
            raise ValueError(f"{file}:{number}: is no object with name and description; {_REMEDY}")
        found.append(document)
    return found


def read(file: Path) -> str:
    """A file's text; ValueError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror}); {_REMEDY}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file}: is no UTF-8 text; {_REMEDY}") from None


@dataclass
class Library:
    """A source's files, compiled once each."""

    source: Source
    _code: dict[Path, CodeType] = field(default_factory=dict)
    _files: dict[str, Path] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        if name not in self._files:
            self._files[name] = file_of(self.source, name)
        return self._files[name]

    def compiled(self, file: Path) -> CodeType:
        if file not in self._code:
            with warnings.catch_warnings():
                # Their docstrings hold escapes that newer Pythons warn of.
                warnings.simplefilter("ignore")
                try:
                    self._code[file] = compile(read(file), str(file), "exec", dont_inherit=True)
                except (SyntaxError, ValueError) as error:
                    raise ValueError(f"{file}: is no Python ({error}); {_REMEDY}") from None
        return self._code[file]


class World:
    """One execution of the files that a scoring needs, and the objects made from them."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._modules: dict[Path, ModuleType] = {}

    def objects(
        self, names: Sequence[str], config: Mapping[str, Any], long_context: bool
    ) -> dict[str, object]:
        """A fresh object of every class, holding its scenario; classes without state have none."""
        made = {}
        for name in names:
            file = self._library.file(name)
            made[name] = getattr(self._module(file), name)()
            load = getattr(type(made[name]), "_load_scenario", None)
            if load is not None:
                scenario = copy.deepcopy(config.get(name, {}))
                try:
                    load(made[name], scenario, long_context=long_context)
                except Exception as error:
                    # Their code, on a user's data: whatever it raises, the data is to blame.
                    what = f"{type(error).__name__}: {error}"
                    raise ValueError(
                        f"initial_config of {name} cannot be loaded ({what}); mend the entry"
                    ) from None
        return made

    def _module(self, file: Path) -> ModuleType:
        if file not in self._modules:
            module = ModuleType(f"bfcl_{self._library.source.version}.{file.stem}")
            module.__file__ = str(file)
            module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
            exec(self._library.compiled(file), module.__dict__)
            self._modules[file] = module
        return self._modules[file]

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        """What an import statement in one of the files gets."""
        sibling = self._library.source.code / f"{name.rpartition('.')[2]}.py"
        if ("." in name or level) and sibling.is_file():
            return self._module(sibling)
        if name == "subprocess":
            # The file system imports it and never uses it. It shall not be able to.
            return ModuleType("subprocess")
        try:
            return __import__(name, globals, locals, fromlist, level)
        except ImportError as error:
            missing = (error.name or name).partition(".")[0]
            raise ValueError(
                f"a multi-turn class needs {missing}, which is not installed: pip install {missing}"
            ) from None
