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


# ---- nothing in a file is ever run

PICKLES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
RUNNERS = {"eval", "exec", "CodeType", "source_to_code", "runpy", "run_path", "run_module", "codeop"}
IMPORTERS = {
    *("__import__", "import_module", "exec_module", "load_module", "module_from_spec", "resolve_name", "walk_packages"),
    *("find_spec", "spec_from_loader", "spec_from_file_location", "SourceFileLoader", "SourcelessFileLoader"),
}
BANNED = PICKLES | RUNNERS | IMPORTERS
ALLOW_PICKLE = {"load": 2, "NpzFile": 2, "read_array": 1}  # its place among the arguments

# file -> the sites that the rule would find there, and why they may stay: none of these names comes out of a file
ALLOWED = {
    "nbnn/__init__.py": {"importlib.import_module(_LATER[name])": "one of the four names of a table beside it"},
    "nbnn/cli.py": {"importlib.util.find_spec('matplotlib')": "asks whether it is there, and imports nothing"},
    "nbnn/course/__init__.py": {
        "pkgutil.walk_packages(here.__path__, f'{__name__}.')": "the modules of the package itself",
        "importlib.import_module(found.name)": "one of these modules",
    },
    "kernels/__init__.py": {"importlib.import_module(f'nbnn.kernels.{file}')": "one of the files of a table beside it"},
    "nbnn/compiling.py": dict.fromkeys(
        (
            "importlib.machinery.SourceFileLoader",
            "importlib.util.spec_from_loader(f'nbnn_{name}', _Loader(f'nbnn_{name}', str(path)))",
            "importlib.util.module_from_spec(spec)",
            "spec.loader.exec_module(module)",
            "self.source_to_code(self.get_data(path), path)",
        ),
        "the text of our own step, whose file holds that text and no other",
    ),
}


def what_runs(parsed):
    """Whatever could run or import what a file says, as (line, text); a call as a whole."""
    calls = {id(node.func): node for node in ast.walk(parsed) if isinstance(node, ast.Call)}
    for node in ast.walk(parsed):
        match node:
            case ast.Import(names=aliases):
                names = {part for alias in aliases for part in alias.name.split(".")}
            case ast.ImportFrom(module=module, names=aliases):
                names = {*(module or "").split("."), *(alias.name for alias in aliases)}
            case ast.Name(id=name) | ast.Attribute(attr=name):
                names = {name}
            case ast.Constant(value=str(text)):
                names = {text}  # as in getattr(builtins, "exec")
            case ast.keyword(arg="allow_pickle", value=value):
                names = set() if is_false(value) else {"pickle"}
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in ALLOW_PICKLE:
                names = {"pickle"} if may_unpickle(node, ALLOW_PICKLE[name]) else set()
            case _:
                continue
        if names & BANNED:
            yield node.lineno, ast.unparse(calls.get(id(node), node))


def is_false(node):
    return isinstance(node, ast.Constant) and node.value is False


def may_unpickle(call, place):
    """Whether a call passes, or may pass, another allow_pickle than False."""
    hidden = any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords)
    return hidden or (len(call.args) > place and not is_false(call.args[place]))


@each(SOURCE)
def test_nothing_in_a_file_is_ever_executed(path):
    """No pickle, no eval, no exec, no import by name: what runs text at all is the import of our own step."""
    allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), {})
    assert [(line, text) for line, text in what_runs(tree(path)) if text not in allowed] == []


@pytest.mark.parametrize("name", ALLOWED)
def test_what_may_run_something_is_still_there(name):
    found = [text for _, text in what_runs(tree(ROOT / name))]
    assert sorted(found) == sorted(ALLOWED[name]), "one time each"


@pytest.mark.parametrize(
    "text",
    [
        "eval(text)",
        "exec(text)",
        "run = exec",
        "builtins.exec(text)",
        "x.eval(text)",
        "getattr(builtins, 'eval')(text)",
        "__builtins__['exec'](text)",
        "__import__(name)",
        "builtins.__import__(name)",
        "importlib.import_module(name)",
        "from importlib import import_module",
        "from importlib import import_module as find\nfind(name)",
        "spec.loader.exec_module(module)",
        "importlib.util.spec_from_file_location(name, path)",
        "importlib.util.find_spec(name)",
        "pkgutil.resolve_name(name)",
        "runpy.run_path(path)",
        "types.CodeType(*parts)",
        "import pickle",
        "import pickle as p",
        "import _pickle",
        "import os, marshal",
        "import shelve",
        "import dill",
        "from dill import loads",
        "from pickle import loads as read",
        "from multiprocessing.reduction import pickle",
        "def read(path):\n    from joblib import load",
        "reduction.pickle.loads(text)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=0 == 0)",
        "np.load(path, None, True)",
        "np.load(path, None, trusted)",
        "np.load(*given)",
        "np.load(path, **given)",
        "from numpy import load\nload(path, None, True)",
        "np.lib.format.read_array(stream, True)",
        "np.lib.npyio.NpzFile(stream, False, True)",
    ],
)
def test_what_would_run_a_file_is_found(text):
    assert list(what_runs(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "json.loads(text)",
        "np.load(path)",
        "np.load(path, None, False)",
        "np.load(path, allow_pickle=False)",
        "np.frombuffer(content, np.uint8)",
        "load(pointer(x), i)",
        "nbnn.load(path, backend='numpy')",
        "re.compile(pattern)",
        "nbnn.compile(graph)",
        "ast.literal_eval(text)",
        "model.evaluate(x, y)",
        "import importlib.util",
        "from importlib import metadata",
        "raise ValueError('no eval, no exec and no pickle')",
        "evaluated = executed = 1",
    ],
)
def test_what_runs_nothing_is_let_through(text):
    assert list(what_runs(ast.parse(text))) == []


# ---- the public face


def test_import_is_quick_and_light():
    """The processor's time: on the clock a busy machine takes any time for anything."""
    program = (
        "import sys, time; begun = time.process_time(); import nbnn; took = time.process_time() - begun; "
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
