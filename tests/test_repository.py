"""The files around the package: licence, citation, pre-commit, and versions that agree."""

import shlex
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
    pins = dict(line.split("==") for line in lines if "==" in line)
    pins = {name.lower(): version for name, version in pins.items()}
    extras = project["optional-dependencies"].values()
    for line in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        wanted = Requirement(line)
        if wanted.name == project["name"]:
            assert wanted.extras <= set(project["optional-dependencies"])
        elif wanted.name.lower() in pins:
            version = pins[wanted.name.lower()]
            assert wanted.specifier.contains(version), f"{line} excludes {version}"
