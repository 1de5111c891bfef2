"""What Markdown pages hold (fenced blocks, links, headings, images), and a reader's machine in which blocks are run.

A block's language says how it is run, a path after the language is the file it is the content of:

`python` is executed, all blocks of a page in one namespace; with `>>>` its outputs are compared, as doctest does.
`yaml` is read by the schema: a whole params file where it has `run`, else merged onto params/local.yaml.
`json` is a row of a file that the reader is told to have, `csv` its head and a row; `text` is what the block before it
prints.
`sh` is executed line by line: `arena10k` in this process, `make` by the recipe it prints, others as the test says.

`arena10k report` is planned, and does what its stages do without their notebooks: `tests/test_pipeline.py` runs those.
"""

from __future__ import annotations

import contextlib
import csv
import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import mistune
import yaml
from click.testing import CliRunner

from arena10k import cli, paths
from arena10k.collection import generate, judge, labels, pilot, teacher_forcing
from arena10k.collection.collect import collect
from arena10k.collection.jobs import LOGPROBS, ORACLE, RESPONSES, judging
from arena10k.estimation.evaluation import study
from arena10k.inputs import prompts
from arena10k.params import config
from arena10k.pipeline import runner, stages
from arena10k.run import Run

CHECKER, FLAGS = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
#: Rows that a `json` block stands for.
ROWS = 24


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the path after it, and its text."""

    page: str
    number: int
    language: str
    path: str
    text: str


@cache
def nodes(page: Path) -> list[dict[str, Any]]:
    """All parts of a page's syntax tree, in order."""

    def below(tree: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for node in tree:
            yield node
            yield from below(node.get("children", ()))

    return list(below(mistune.create_markdown(renderer="ast", plugins=["table"])(page.read_text(encoding="utf-8"))))


def blocks(page: Path) -> list[Block]:
    found = []
    for node in nodes(page):
        if node["type"] == "block_code":
            language, _, path = ((node.get("attrs") or {}).get("info") or "").partition(" ")
            found.append(Block(page.name, len(found) + 1, language, path.strip(), node["raw"]))
    return found


def commands(text: str) -> list[list[str]]:
    """The command lines of a `sh` block, as words; `.venv/bin/` is where a reader has the programs."""
    lines = text.replace("\\\n", " ").replace("&&", "\n").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [[word.removeprefix(".venv/bin/") for word in words] for words in found if words]


def text_of(node: dict[str, Any]) -> str:
    return node.get("raw", "") + "".join(map(text_of, node.get("children", ())))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, by GitHub's rule."""
    texts = [text_of(node).lower() for node in nodes(page) if node["type"] == "heading"]
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


class Machine:
    """A fresh clone on a reader's machine, whose providers are the stub: what is named in `stands_for` is replaced in
    every block before it is run."""

    def __init__(self, folder: Path, programs: dict[str, Callable[[list[str]], object]], stands_for: dict[str, str]):
        self.folder, self.programs, self.stands_for = folder, programs, stands_for
        self.namespace: dict[str, Any] = {"__name__": "page"}
        self.said = ""
        root = paths.source_root()
        for name in ("notebooks", "profiles", "lib", "Snakefile", "pyproject.toml", "requirements.lock", "benchmarks"):
            (folder / name).symlink_to(root / name)
        for name in ("Makefile", "environment.yml"):
            shutil.copy(root / name, folder)
        shutil.copytree(root / "params", folder / "params")
        shutil.copytree(root / "docs", folder / "docs")
        (folder / "data").mkdir()
        shutil.copytree(root / "reports" / "sample", folder / "reports" / "sample", ignore=shutil.ignore_patterns(".*"))
        shutil.copytree(root / "data" / "sample", folder / "data" / "sample")
        (folder / ".venv").symlink_to(sys.prefix)
        shutil.copytree(root / "tests" / "logs", folder / "logs")

    def run(self, block: Block) -> None:
        """Run one block. Raises AssertionError, or what the block raises."""
        text = block.text
        for here, there in self.stands_for.items():
            text = text.replace(here, there)
        getattr(self, f"_{block.language}")(block, text)

    def _python(self, block: Block, text: str) -> None:
        where = f"{block.page}, block {block.number}"
        if ">>>" not in text:
            exec(compile(text, where, "exec"), self.namespace)
            return
        test = doctest.DocTestParser().get_doctest(text, self.namespace, where, block.page, 0)
        said: list[str] = []
        result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append, clear_globs=False)
        self.namespace.update(test.globs)
        assert result.failed == 0, "".join(said)

    def _yaml(self, block: Block, text: str) -> None:
        content = yaml.safe_load(text)
        whole = "run" in content
        file = self.folder / (block.path or "params/fragment.yaml")
        file.write_text(text if whole else yaml.safe_dump({"extends": "local.yaml", **content}))
        if content.get("imported", {}).get("tables"):
            config.load_import(file)
        else:
            stages.of(config.load(file))

    def _json(self, block: Block, text: str) -> None:
        """The row as a file of such rows, whose ids, scores and log-probs are told apart; some have no label."""
        file = self.folder / block.path
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [_varied(json.loads(text), i) for i in range(ROWS)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def _csv(self, block: Block, text: str) -> None:
        """The same of a file of cells."""
        (row,) = csv.DictReader(text.splitlines())
        typed = {key: float(cell) if re.fullmatch(r"-?[\d.]+", cell) else cell for key, cell in row.items()}
        with (self.folder / block.path).open("w", newline="") as stream:
            table = csv.DictWriter(stream, list(row))
            table.writeheader()
            table.writerows(_varied(typed, i) for i in range(ROWS))

    def _text(self, block: Block, text: str) -> None:
        assert CHECKER.check_output(text, self.said, FLAGS), f"{block.page}: says\n{self.said}\nand not\n{text}"

    def _sh(self, block: Block, text: str) -> None:
        self.said = ""
        for words in commands(text):
            self.command(words)

    def command(self, words: list[str]) -> None:
        """Run one command line."""
        while words and re.match(r"\w+=", words[0]):
            os.environ.__setitem__(*words.pop(0).split("=", 1))
        if not words:
            return
        program, rest, line = words[0], words[1:], " ".join(words)
        if line in self.programs:
            self.programs[line](rest)
        elif program == "export":
            self.command(rest)
        elif program in ("make", "arena10k"):
            getattr(self, f"_{program}")(rest)
        else:
            raise AssertionError(f"{line}: not executed, and not among those that need not be")

    def _make(self, words: list[str]) -> None:
        """What make would run, from its own dry run: the recipe's `arena10k` commands; of other recipes, that they
        exist."""
        command = ["make", "--no-print-directory", "-n", "-o", ".venv/ready", *words]
        recipe = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True).stdout
        assert recipe.strip()
        for line in recipe.splitlines():
            if line.startswith(".venv/bin/arena10k "):
                self.command(*commands(line))

    def _arena10k(self, words: list[str]) -> None:
        if words[0] == "report" and "--cost" not in words:
            return self._report(cli.report.make_context("report", words[1:]).params)
        result = CliRunner().invoke(cli.main, words)
        assert result.exit_code == 0, result.output
        self.said += result.output

    def _report(self, options: dict[str, Any]) -> None:
        """What the pipeline of the command does, without notebooks: models are asked, estimates are made."""
        if options["profile"]:
            assert runner.profile_options(options["profile"])
        params = config.load(options["params_file"], options["run"] or None)
        assert stages.of(params)
        if params.imported or params.table:
            run = Run(params)
            made = study(run.arrays(run.table()), estimators=["snips", "direct"]).rows
            assert any(row["value"] is not None for row in made)
        elif not params.recording and any(params.providers[name].kind == "openai" for name in params.asked):
            _collected(params)


def _varied(row: dict[str, Any], i: int) -> dict[str, Any]:
    def other(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: other(key if "logprob" in key else k, v) for k, v in value.items()}
        if isinstance(value, str):
            as_it_is, mark = (
                key.startswith(("policy", "winner", "model")),
                " " if key in ("prompt", "response") else "-",
            )
            return value if as_it_is else f"{value}{mark}{i}"
        if "logprob" in key or "logp" in key:
            return value - 0.37 * i - (0.011 * i * len(key)) % 0.5
        return round(value * (1 + i % 7) / 7, 3) if isinstance(value, float) else value

    made = {key: other(key, value) for key, value in row.items()}
    return {k: v for k, v in made.items() if i % 3 == 0 or "label" not in k}


def _collected(params: config.Params) -> None:
    """Stages 01 to 04 on the endpoint of the params; every measurement succeeds."""
    frame, _ = prompts.load(params)
    prompts.write(params, frame)
    store = Run(params).store
    pilot.run(params, store, frame)
    for tasks in (
        partial(generate.tasks, params, frame),
        partial(teacher_forcing.tasks, params, store),
        partial(judge.tasks, params, frame, store),
    ):
        outcome = collect(params, store, tasks, "page")
        assert outcome.total, tasks
        assert not outcome.errors, outcome.errors
    labels.label(params, store, frame)
    done = {row["job"] for row in store.rows() if row["status"] == "ok"}
    assert {*judging(params), ORACLE, RESPONSES, LOGPROBS} <= done
    store.close()


@contextlib.contextmanager
def untouched(*registries: dict[str, Any]) -> Iterator[None]:
    """What pages register is gone afterwards."""
    kept = [dict(registry) for registry in registries]
    try:
        yield
    finally:
        for registry, before in zip(registries, kept, strict=True):
            registry.clear()
            registry.update(before)
