"""The structure of the package, as CONTRIBUTING.md describes it: read from its source."""

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
# From the bottom up: a subpackage imports from itself and from those before it.
ROOMS = (
    "errors",
    "files",
    "registry",
    "packaged",
    "config_tree",
    "ops",
    "checkpoints",
    "compat",
    "backbones",
    "models",
    "datasets",
    "evaluation",
    "engine",
    "serving",
    "reports",
    "analysis",
    "benchmarks",
    "exporting",
    "commands",
)
LONGEST_FUNCTION = 60
MOST_ARGUMENTS = 10
# Constructors and functions whose arguments are documented interfaces, used by keyword: those of
# mmdet and mmseg, of configs, and of the tools. Triton kernels take their tensors one by one, and
# the operators of compat.ops are called as mmcv calls its own.
LONG_INTERFACES = {
    "backbones.deit.DeiT.__init__",
    "backbones.swin.SwinTransformer.__init__",
    "backbones.swin_mlp.SwinMLP.__init__",
    "backbones.swin_v2.SwinTransformerV2.__init__",
    "engine.test.evaluate",
    "models.heads.conditional_mask_head.ConditionalMaskHead.__init__",
    "models.heads.reppoints_v2_head.RepPointsV2Head.__init__",
    "models.heads.reppoints_v2_layers.RepPointsV2Layers.__init__",
    "engine.train.train",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPO / "swin_dense").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of the package, by its name below ``swin_dense``."""
    paths = sorted((REPO / "swin_dense").rglob("*.py"))
    return {module_name(path): ast.parse(path.read_text(), path) for path in paths}


def imports(name: str) -> set[str]:
    """Modules of the package that a module imports, anywhere in it, for types too."""
    found = set()
    for node in ast.walk(sources()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    ours = {f.removeprefix("swin_dense.") for f in found if f.startswith("swin_dense.")}
    return {module for module in ours if module in sources() and module != name}


def functions(kernels: bool = False) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function of the package with its dotted name; Triton kernels if asked for."""

    def below(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                yield from below(child, f"{prefix}.{child.name}")
            if isinstance(child, ast.FunctionDef):
                decorators = " ".join(map(ast.unparse, child.decorator_list))
                if kernels or "triton.jit" not in decorators:
                    yield f"{prefix}.{child.name}", child

    command_line = sorted((REPO / "swin_dense_cli").glob("*.py"))
    trees = {f"cli.{path.stem}": ast.parse(path.read_text(), path) for path in command_line}
    for name, tree in (sources() | trees).items():
        yield from below(tree, name)


def test_imports_run_downwards():
    upwards = [
        f"{name} -> {imported}"
        for name in sources()
        if name
        for imported in imports(name)
        if imported and ROOMS.index(imported.split(".")[0]) > ROOMS.index(name.split(".")[0])
    ]
    assert not upwards


def test_no_import_cycles():
    # A package's __init__ is imported with any of its modules; what it imports of them is no cycle.
    graph = {
        name: {i for i in imports(name) if not i.startswith(f"{name}.") and i} for name in sources()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_backends_of_attention_do_not_import_each_other():
    room = "ops.window_attention"
    names = ("reference", "sdpa", "cpu", "compiled", "cosine", "triton.op")
    backends = {f"{room}.{name}" for name in names}
    parts = {f"{room}.triton.{name}" for name in ("launch", "kernels", "large_kernels")}
    for backend in backends | parts:
        assert not imports(backend) & (backends | {f"{room}.api"}), backend
    for backend, other in (("pytorch", "triton.backend"), ("triton.backend", "pytorch")):
        assert f"ops.block.{other}" not in imports(f"ops.block.{backend}")
    assert not any(
        "window_attention" in i for n in sources() if n[:9] == "ops.block" for i in imports(n)
    )


@pytest.mark.parametrize("room", ["ops", "checkpoints"])
def test_subpackages_without_openmmlab(room):
    for name in sources():
        if name.split(".")[0] == room:
            text = ast.unparse(sources()[name])
            assert not re.search(r"^\s*(import|from) (mmengine|mmcv|mmdet|mmseg)\b", text, re.M), (
                name
            )


def test_command_line_is_parsed_by_the_standard_library():
    """At the top of its modules; what commands do is imported in functions."""
    for path in sorted((REPO / "swin_dense_cli").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            roots = {name.partition(".")[0] for name in names}
            assert roots <= {*sys.stdlib_module_names, "swin_dense_cli"}, path
    assert not [name for name, tree in sources().items() if "swin_dense_cli" in ast.unparse(tree)]


def test_no_mocks_in_the_package():
    assert not [name for name, tree in sources().items() if "mock" in ast.unparse(tree)]


def test_private_names_of_pytorch_are_in_two_files():
    """Private names of torch, and those of nn.Module for its children, parameters and hooks."""
    of_modules = re.compile(
        r"\._(modules|parameters|buffers|(forward|backward)(_pre)?_hooks|register_load_state_dict_pre_hook)\b"
    )
    of_torch = re.compile(r"\btorch(\.(?!torchvision)\w+)*\._(?!_)\w+|(from|import) torch\S*\._")
    found = {
        name
        for name, tree in sources().items()
        if of_torch.search(ast.unparse(tree)) or of_modules.search(ast.unparse(tree))
    }
    assert found == {"ops.dispatch", "ops.torch_versions"}


def test_files_are_written_in_one_module():
    """Elsewhere one could be left half written. Shapes get their folder at the end, notes grow."""
    writes = re.compile(
        r"os\.replace\(|\.write_(text|bytes)\(|\.imwrite\(|\.tofile\(|open\([^)]*['\"][wax]b?\+?['\"]"
    )
    found = {name for name, tree in sources().items() if writes.search(ast.unparse(tree))}
    assert found == {"files", "datasets.shapes", "ops.autotune"}


def test_functions_are_short():
    long = {
        name: node.end_lineno - node.lineno + 1
        for name, node in functions(kernels=True)
        if node.end_lineno - node.lineno >= LONGEST_FUNCTION
    }
    assert not long


def test_argument_lists_are_short():
    long = {}
    for name, node in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([a for a in arguments if a.arg not in ("self", "cls", "ctx")])
        interface = name in LONG_INTERFACES or name.startswith("compat.ops.")
        if count > MOST_ARGUMENTS and not interface:
            long[name] = count
    assert not long
