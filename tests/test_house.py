"""The rules of the house, held by reading the source."""

import ast
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import nbnn
from nbnn.ops import OPS

ROOT = pathlib.Path(nbnn.__file__).resolve().parent.parent
LOOPS = sorted((ROOT / "kernels").glob("*.py"))
COMPILER = sorted((ROOT / "nbnn").glob("*.py"))
SOURCE = sorted([*(ROOT / "nbnn").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])

PUBLIC = [
    *("Graph", "GraphError", "compile", "load", "Model", "Solver"),
    *("Conv", "Affine", "MaxPool", "AvgPool", "GlobalAvgPool", "BatchNorm", "LayerNorm", "GroupNorm", "Dropout"),
    "Augment",
    *("ReLU", "LeakyReLU", "Sigmoid", "Tanh", "GELU", "SiLU", "Flatten", "Add", "Concat", "Scale", "Identity"),
    *("Softmax", "Svm", "Mse"),
]


def each(paths):
    return pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in paths])


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def child(program, folder=ROOT):
    """A fresh interpreter in a folder."""
    return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)


def test_the_source_is_where_the_rules_look():
    assert len(LOOPS) > 10 and len(COMPILER) > 15 and len(SOURCE) > 35


# ---- kernels


def shares(path):
    """The functions of a file that are handed a share of the items, from `first` to `last`."""
    functions = [node for node in tree(path).body if isinstance(node, ast.FunctionDef)]
    return [f for f in functions if {"first", "last"} <= {a.arg for a in f.args.args}]


@each(LOOPS)
def test_every_loop_over_items_is_a_kernel(path):
    """A loop says the types of its arguments and carries @kernel; what it calls is inlined into it."""
    for function in shares(path):
        typed = [a.annotation is not None for a in function.args.args]
        assert len(function.decorator_list) == 1, f"{function.name} needs one decorator"
        decorator = ast.unparse(function.decorator_list[0])
        if all(typed):
            assert decorator.startswith("kernel(each="), f"{function.name} lacks @kernel(...)"
        else:
            assert not any(typed) and decorator in ("inlined", "intrinsic"), f"{function.name} is half a kernel"


@each(LOOPS)
def test_every_kernel_takes_a_share(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(d).startswith("kernel(") for d in node.decorator_list):
            words = [a.arg for a in node.args.args]
            assert words[-2:] == ["first", "last"] or words[-3:] == ["first", "last", "worker"], node.name


@each(LOOPS)
def test_kernels_allocate_nothing_and_leave_products_to_the_tile(path):
    banned = {
        "empty",
        "zeros",
        "ones",
        "full",
        "empty_like",
        "zeros_like",
        "ones_like",
        "full_like",
        "copy",
        "dot",
        "matmul",
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy"):
            assert node.attr not in banned, f"line {node.lineno}: np.{node.attr}"
        assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)), f"line {node.lineno}: @"


@each(LOOPS)
def test_kernels_return_nothing(path):
    for function in shares(path):
        if "kernel(" in ast.unparse(function.decorator_list[0]):
            returned = [r for r in ast.walk(function) if isinstance(r, ast.Return) and r.value is not None]
            assert returned == [], f"{function.name} returns a value"


@each(SOURCE)
def test_no_option_that_would_lose_a_nan(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant):
            assert node.value not in ("nnan", "ninf", "fast"), f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "fastmath":
            assert not isinstance(node.value, ast.Constant), f"line {node.lineno}: fastmath has one value, in jit.py"


def test_numba_s_options_are_chosen_in_one_place():
    jitted = [p.name for p in SOURCE if re.search(r"\bnjit\(", p.read_text(encoding="utf-8"))]
    assert jitted == ["jit.py"]


def test_kernels_are_not_imported_under_another_name():
    refused = child("import kernels")
    assert refused.returncode != 0
    assert refused.stderr.splitlines()[-1] == ('ImportError: import this package as "nbnn.kernels", not as "kernels"')


# ---- the compiler


@each(p for p in COMPILER if p.name != "cli.py")
def test_only_the_command_line_prints(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) != "print", f"line {node.lineno}"


@each(SOURCE)
def test_nothing_in_a_file_is_ever_executed(path):
    """No pickle, no eval, no exec: the one thing that runs text is the import of our own step."""
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            loaders = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
            assert not loaders & {name.split(".")[0] for name in names}, f"line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "__import__"), f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False, f"line {node.lineno}"
        if isinstance(node, ast.Name):
            assert node.id != "pickle", f"line {node.lineno}"


# ---- the public face


def test_import_is_quick_and_light():
    program = (
        "import sys, time; begun = time.perf_counter(); import nbnn; took = time.perf_counter() - begun; "
        "heavy = {'numba', 'llvmlite', 'numpy', 'scipy', 'safetensors', 'matplotlib', 'torch'} & {*sys.modules}; "
        "print(took, sorted(heavy))"
    )
    runs = [child(program).stdout.split(maxsplit=1) for _ in range(3)]
    assert {heavy.strip() for _, heavy in runs} == {"[]"}
    assert min(float(took) for took, _ in runs) < 0.2


def test_the_public_surface_is_the_one_that_is_written_here():
    assert sorted(nbnn.__all__) == sorted(PUBLIC)
    assert len(set(nbnn.__all__)) == len(nbnn.__all__)
    assert set(nbnn.__all__) <= set(dir(nbnn))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there_and_explained(name):
    found = getattr(nbnn, name)
    text = inspect.getdoc(found) or ""
    assert len(text) >= 5 and not text.startswith(f"{name}("), "no docstring but the one that dataclass writes"
    assert found.__module__.startswith("nbnn.")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Convolution'"):
        _ = nbnn.Convolution


@pytest.mark.parametrize("name", OPS)
def test_an_op_opens_with_its_equation(name):
    op = OPS[name]
    assert "__doc__" in op.__dict__
    assert re.match(r"y(\[[^\]]*\])? = \S", op.__doc__), op.__doc__
    assert getattr(nbnn, name) is op


@each(p for p in SOURCE if p.name != "__main__.py")
def test_every_module_says_what_it_is(path):
    text = ast.get_docstring(tree(path)) or ""
    assert len(text) > 20


def unnamed(table):
    """The modules that a table leaves out; kernels/reference may stand there as one folder."""
    named = set(re.findall(r"[\w/]+\.py\b|kernels/reference/", table))
    for path in SOURCE:
        inside, name = f"{path.parent.relative_to(ROOT).as_posix()}/", path.name
        if name not in ("__init__.py", "__main__.py") and not {inside + name, name, inside} & named:
            yield inside + name


@pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="README.md has not been written yet")
def test_the_readme_names_every_module():
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("’", "'")
    assert "What's where" in text
    assert list(unnamed(text.split("What's where", 1)[1].split("\n#", 1)[0])) == []


def test_a_table_that_leaves_something_out_would_be_found():
    full = " ".join(f"`{p.name}`" for p in SOURCE)
    assert list(unnamed(full)) == []
    assert list(unnamed(full.replace("`graph.py`", ""))) == ["nbnn/graph.py"]
    assert len(list(unnamed("`nbnn/` `kernels/`"))) > 35
