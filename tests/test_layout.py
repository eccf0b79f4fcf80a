"""How the package hangs together: which module imports which."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "espnet_prune"
ROOMS = ("cli", "data", "evaluation", "speech", "text", "training")
# What knows of files and commands.
OUTSIDE = ("argparse", "json", "omegaconf", "os", "pathlib", "subprocess", "yaml")


def module_files():
    """Map the name of every module to its file."""
    files = {}
    for path in sorted((ROOT / PACKAGE).glob("**/*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = path
    return files


FILES = module_files()
# What else stands at the top, beside the method.
BESIDE = ("config", "errors", "experiment", "files", "keys", "loading", "processes")
METHOD = sorted(
    path.stem
    for path in (ROOT / PACKAGE).glob("*.py")
    if path.stem not in BESIDE and not path.stem.startswith("__")
)


def statements(node):
    """Yield what runs when a module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from statements(child)


def imports(name, nodes):
    """Name the modules that statements of a module import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports by a relative name"
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                found.add(module if module in FILES else node.module)
    return found


def tree(name):
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def test_no_module_imports_itself_in_a_circle():
    graph = {name: imports(name, statements(tree(name))) & set(FILES) for name in FILES}
    assert f"{PACKAGE}.masks" in graph[f"{PACKAGE}.attention"]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("name", METHOD)
def test_the_method_knows_nothing_of_files_and_commands(name):
    module = f"{PACKAGE}.{name}"
    rooms = tuple(f"{PACKAGE}.{room}" for room in ROOMS)
    foreign = {
        each
        for each in imports(module, ast.walk(tree(module)))
        if each.split(".")[0] in OUTSIDE or each.startswith(rooms)
    }
    assert not foreign
