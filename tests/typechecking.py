"""The checks that run under every test: of types, and of the shapes that a signature names.

jaxtyping's own import hook puts a slow wrapper around every function, also around those inside
functions, which are made anew in each call: the tests took three times as long.
"""

import ast
import dataclasses
import functools
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from inspect import isclass
from types import CodeType, FunctionType, ModuleType
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

# an int where a float is asked is taken, and one kind of error tells of types and of shapes
TYPES = BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError)
NAME = "_type_checked"  # of `checked`, in every module of the package


def checked(made: Any) -> Any:
    """Return a function, or a dataclass's class, whose arguments and results are checked."""
    if isclass(made):
        written = hasattr(made.__init__, "__wrapped__")  # and so decorated
        if dataclasses.is_dataclass(made) and "__init__" in vars(made) and not written:
            made.__init__ = checked(made.__init__)
        return made
    for name, hint in made.__annotations__.items():
        made.__annotations__[name] = _known(hint, made)
    shaped = any(map(_names_a_shape, made.__annotations__.values()))
    checks = beartype(conf=TYPES)
    function = jaxtyping.jaxtyped(made, typechecker=checks) if shaped else checks(made)
    test, calls = 0, 0

    @functools.wraps(made)
    def switched(*args: Any, **kwargs: Any) -> Any:
        nonlocal test, calls
        if test != Tests.number:
            test, calls = Tests.number, 0
        calls += 1
        unchecked = calls > Tests.CALLS or jaxtyping.config.jaxtyping_disable
        return (made if unchecked else function)(*args, **kwargs)

    return switched


class Tests:
    """A function is checked in its first calls of each test: later ones are much the same."""

    CALLS = 20
    number = 0  # of the test that runs


def _known(hint: Any, made: FunctionType) -> Any:
    """The hint, or Any for one of a name that only type checkers import."""

    def of_value(value: hint) -> None: ...

    try:
        return get_type_hints(of_value, made.__globals__, include_extras=True)["value"]
    except Exception:
        return Any


def _names_a_shape(hint: Any) -> bool:
    if isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_names_a_shape, get_args(hint)))


class _Decorator(ast.NodeTransformer):
    """Decorate what is annotated in a module and in its classes, and nothing inside a function."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.decorator_list.append(ast.Name(NAME, ast.Load()))  # before what removes annotations
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list.insert(0, ast.Name(NAME, ast.Load()))  # when it is a dataclass
        return self.generic_visit(node)


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Compile the module, decorated; nothing is read from the compiled files or kept there."""
        path = self.get_filename(fullname)
        tree = _Decorator().visit(ast.parse(self.get_data(path), path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)[NAME] = checked
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname: str, *args: Any) -> ModuleSpec | None:
        if fullname.partition(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(fullname, *args)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def check_package(name: str) -> None:
    """Check every function of the package's modules, which nothing has imported yet."""
    assert not any(module.partition(".")[0] == name for module in sys.modules), name
    sys.meta_path.insert(0, _Finder(name))
