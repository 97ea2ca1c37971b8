"""What is given to users: the wheel, the source archive, their version and their dependencies."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import lobes

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The names in the wheel and in the source archive, without their first folder."""
    place = tmp_path_factory.mktemp("source") / "lobes"
    place.mkdir()
    for path in ROOT.iterdir():  # a copy: setuptools writes beside the sources
        if path.name in ("src", "tests", "docs", "examples", "scripts", "benchmarks"):
            unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(path, place / path.name, ignore=unwanted)
        elif path.is_file():
            shutil.copy(path, place)
    build = "from setuptools.build_meta import *; build_wheel('out'); build_sdist('out')"
    done = subprocess.run([sys.executable, "-c", build], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wheel, sdist = *place.glob("out/*.whl"), *place.glob("out/*.tar.gz")
    with tarfile.open(sdist) as archive:
        source = {name.name.partition("/")[2] for name in archive if name.isfile()}
    return set(zipfile.ZipFile(wheel).namelist()), source


def package() -> set[str]:
    """The files of the package, as the wheel names them."""
    files = (path for path in (ROOT / "src" / "lobes").rglob("*") if path.is_file())
    return {str(p.relative_to(ROOT / "src")) for p in files if "__pycache__" not in p.parts}


def test_the_wheel_holds_the_package_and_nothing_else(archives):
    wheel, _ = archives
    about = {name for name in wheel if ".dist-info/" in name}
    assert wheel - about == package()
    names = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")
    assert {name.partition(".dist-info/")[2] for name in about} == {*names}


def test_the_source_archive_holds_what_it_is_built_from_and_nothing_else(archives):
    _, source = archives
    wanted = {f"src/{name}" for name in package()}
    wanted |= {"pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"}
    wanted |= {"CITATION.cff", "PKG-INFO", "setup.cfg"}  # the last two are setuptools' own
    assert {name for name in source if ".egg-info/" not in name} == wanted


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert PROJECT["version"] == lobes.__version__
    assert re.search(r"^version: (.+)$", citation, re.M)[1] == lobes.__version__


def test_the_lowest_dependencies_are_those_that_are_tested():
    lock = (ROOT / "requirements-oldest.lock").read_text(encoding="utf-8")
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", lock, re.M))
    for dependency in PROJECT["dependencies"]:
        name, lowest = re.fullmatch(r"([\w.-]+)>=([\d.]+)(?:,<\d+)?", dependency).groups()
        digits = [int(digit) for digit in tested[name].split(".")]
        expected = [int(digit) for digit in lowest.split(".")]
        assert digits == expected + [0] * (len(digits) - len(expected)), name
