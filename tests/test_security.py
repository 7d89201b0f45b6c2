"""docs/security.md names every place that reads files, starts processes or imports by name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import mulfree

_PACKAGE = Path(mulfree.__file__).parent
_DOCUMENT = Path(__file__).parents[1] / "docs" / "security.md"

_READS = {
    *("open", "open_regular", "read_regular", "read_bytes", "read_text", "safe_open", "memmap"),
    *("ZipFile", "GzipFile", "LZMAFile", "BZ2File", "fromfile", "genfromtxt", "loadtxt"),
    *("torch.load", "np.load", "json.load", "json.loads", "os.open", "Image.open"),
    *("yaml.parse", "yaml.load", "yaml.safe_load", "pickletools.genops", "np.frombuffer"),
}
_STARTS = {"subprocess.run", "subprocess.Popen", "os.system", "os.popen", "os.fork", "os.execv"}
_IMPORTS = {"import_module", "__import__", "run_path", "run_module"}
_EVALUATES = {"pickle.load", "pickle.loads", "yaml.unsafe_load", "shell"}
_BUILT_IN = {"eval", "exec", "compile"}
# In the place of standard streams, of which nothing is read.
_WRITES = {("cli/main", "open"), ("cli/main", "os.open")}


def _uses(names: set[str]) -> set[str]:
    """Modules, by path, that call a function of one of the names or give a keyword of one."""
    found = set()
    for file in _PACKAGE.rglob("*.py"):
        module = file.relative_to(_PACKAGE).with_suffix("").as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                spellings = {called, *(word.arg for word in node.keywords if word.arg)}
                # A method may well be called eval or compile.
                spellings |= {called.rpartition(".")[2]} - _BUILT_IN
                if spellings & names and (module, called) not in _WRITES:
                    found.add(module)
    return found


def _section(title: str) -> str:
    text = _DOCUMENT.read_text()
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def _names(text: str) -> set[str]:
    return {name for name in re.findall(r"`([\w/]+)`", text) if (_PACKAGE / f"{name}.py").exists()}


def test_every_reader_is_documented() -> None:
    rows = [
        row.split("|")[1] for row in _section("Where files are read").splitlines() if "|" in row
    ]
    # It gets bytes that another one has read.
    documented = _names(" ".join(rows)) - {"data/formats/cifar_pickle"}
    assert len(documented) > 15
    assert documented == _uses(_READS)


def test_every_process_is_documented() -> None:
    documented = _names(_section("Where processes are started"))
    assert len(documented) == 2
    assert documented == _uses(_STARTS)


def test_every_import_by_name_is_documented() -> None:
    documented = _names(_section("Where modules are imported by name"))
    assert len(documented) > 5
    assert documented == _uses(_IMPORTS)


def test_nothing_evaluates_code() -> None:
    assert _uses(_EVALUATES | _BUILT_IN) == set()
