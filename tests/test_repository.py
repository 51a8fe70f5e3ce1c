"""The files around the package: licence, citation, pre-commit, and versions that agree."""

import os
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import swin_dense

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings the same parser
    import tomli as tomllib


@pytest.fixture(scope="module")
def project(repo: Path) -> dict[str, Any]:
    return tomllib.loads((repo / "pyproject.toml").read_text())["project"]


def test_licence_is_apache_2_and_ships_with_the_package(repo, project):
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE", "NOTICE"]
    text = (repo / "LICENSE").read_text()
    assert text.split("\n", 4)[1:3] == [
        " " * 33 + "Apache License",
        " " * 27 + "Version 2.0, January 2004",
    ]
    holder = "Copyright 2026 The swin_dense authors"
    assert holder in text
    assert (repo / "NOTICE").read_text().startswith(f"swin_dense\n{holder}\n")


def test_citation_names_the_paper_and_the_version(repo, project):
    citation = yaml.safe_load((repo / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == swin_dense.__version__
    assert "version" in project["dynamic"]
    assert citation["license"] == project["license"]
    paper = citation["preferred-citation"]
    assert len(paper["authors"]) == 8
    assert paper["url"].endswith("2103.14030")


def test_pre_commit_runs_the_checks_of_make_lint_offline(repo):
    (source,) = yaml.safe_load((repo / ".pre-commit-config.yaml").read_text())["repos"]
    assert source["repo"] == "local"
    assert {hook["language"] for hook in source["hooks"]} == {"system"}
    commands = {hook["id"]: shlex.split(hook["entry"]) for hook in source["hooks"]}
    assert {command[0].rpartition("/")[0] for command in commands.values()} == {".venv/bin"}
    lint = (repo / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    for hook in ("ruff-check", "ruff-format", "mypy"):
        assert hook.replace("-", " ") in lint
    flag, code = commands["configs"][-2:]
    assert flag == "-c"
    compile(code, "configs hook", "exec")


def test_pinned_versions_are_those_that_the_package_accepts(repo, project):
    lines = (repo / "requirements.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if "==" in line]
    extras = project["optional-dependencies"].values()
    for line in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        wanted = Requirement(line)
        if wanted.name == project["name"]:
            assert wanted.extras <= set(project["optional-dependencies"])
        for pin in pinned:
            if pin.name.lower() == wanted.name.lower():  # perhaps one for each Python
                (version,) = (one.version for one in pin.specifier)
                assert wanted.specifier.contains(version), f"{line} excludes {version}"


def test_cpu_build_of_torch_is_taken_where_there_is_one(repo, tmp_path):
    """`make CPU=1`, as far as PyTorch goes, with a folder of wheels as the index."""
    make = ["make", "-C", repo, "--no-print-directory", "cpu-torch", f"TORCH_INDEX={tmp_path}"]
    venv.create(tmp_path / "venv", with_pip=False)
    pip = f"{sys.executable} -m pip --python {tmp_path / 'venv' / 'bin' / 'python'}"

    def run() -> str:
        options = {"capture_output": True, "text": True, "check": True}
        # Without the options of a make that runs these tests, as make -j test.
        env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        done = subprocess.run([*make, f"PIP={pip}"], env=env, **options)
        return done.stdout + done.stderr

    line = run()
    assert line.startswith(f"No CPU build of torch==2.11.0 in {tmp_path}: taking the default")
    assert line.count("\n") == 1
    for name, version in (("torch", "2.11.0"), ("torchvision", "0.26.0")):
        write_wheel(tmp_path, name, f"{version}+cpu")
    assert run() == ""
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    assert {path.name for path in site.glob("*.dist-info")} == {
        "torch-2.11.0+cpu.dist-info",
        "torchvision-0.26.0+cpu.dist-info",
    }


def write_wheel(folder: Path, name: str, version: str) -> None:
    """The smallest wheel that pip installs."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def test_wheel_holds_configs_and_tools(repo, tmp_path):
    """Built as a release is, from a copy without what git ignores."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(repo / name, tmp_path)
    unneeded = shutil.ignore_patterns("__pycache__")
    for name in ("swin_dense", "swin_dense_cli", "configs", "tools"):
        shutil.copytree(repo / name, tmp_path / name, symlinks=True, ignore=unneeded)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]) as wheel:
        names = set(wheel.namelist())
        (points,) = (wheel.read(name).decode() for name in names if "entry_points" in name)
    for folder in ("configs", "tools"):
        files = {f"swin_dense/.mim/{p.relative_to(repo)}" for p in (repo / folder).rglob("*.py")}
        assert files <= names
    assert "swin_dense/py.typed" in names
    assert f"swin_dense-{swin_dense.__version__}.dist-info/METADATA" in names
    assert not [name for name in names if name.endswith(".pyc") or name.startswith("tests")]
    assert points.strip() == "[console_scripts]\nswin-dense = swin_dense_cli.main:main"
