"""Stages: which notebook does what, what makes it out of date, and how one is run and rendered."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from arena10k import paths
from arena10k.collection.jobs import judging
from arena10k.errors import ArenaError, NothingToShow, ParamsError, one_line, section
from arena10k.inputs.policies import digest
from arena10k.params import config
from arena10k.params.config import Params
from arena10k.pipeline import failures, stopping, warm

_PACKAGE = Path(__file__).parents[1]
#: Between the notebook of an ablation and the cell it is run for, in a stage's name.
_CELL = "@"
#: Errors whose message is written for the user; any other is shown with its type.
_PLAIN = {"ArenaError", "ParamsError", "FatalCallError", "ServerFailed"}


@dataclass(frozen=True)
class Stage:
    """A run of a notebook in the pipeline: the stages it needs, the store jobs whose content its stamp stands for,
    whether it asks models, the results it writes, and the ablation cell it is for."""

    name: str
    needs: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    asks: bool = False
    results: tuple[str, ...] = ()
    cell: str = ""

    @property
    def notebook(self) -> str:
        return self.name.split(_CELL)[0]


_SCORING = ("03_teacher_forcing", "04_judge")
#: Stands for the jobs of all judges of a run.
_JUDGES = "judges"
STAGES = {
    stage.name: stage
    for stage in (
        Stage("00_status", _SCORING, results=("status.json",)),
        Stage("01_prompts"),
        Stage("02_responses", ("01_prompts",), ("responses",), True),
        Stage("03_teacher_forcing", ("02_responses",), ("logprobs", "logprobs_shuffled"), True),
        Stage("04_judge", ("02_responses",), (_JUDGES, "oracle", "truth"), True, ("examples.json",)),
        Stage("05_data_quality", _SCORING, ("responses", "logprobs"), results=("quality.json",)),
        Stage("06_estimates", ("05_data_quality",), results=("estimates.json", "truth.json")),
        Stage("07_pi_bad_anomaly", ("06_estimates",), results=("anomaly.json",)),
        Stage("09_ablation_summary", ("06_estimates",)),
        Stage("10_simulation", ("05_data_quality",), results=("simulation.json",)),
    )
}
#: The sections of the params that each notebook reads: a stage runs again when one of these changed, and only then.
STAGE_PARAMS = {
    "00_status": ("policies", "responses", "judges", "oracle"),
    "01_prompts": ("prompts", "seed"),
    "02_responses": ("providers", "policies", "responses", "seed"),
    "03_teacher_forcing": ("providers", "policies", "responses", "logging_policy", "seed"),
    "04_judge": ("providers", "policies", "judges", "oracle", "responses", "seed"),
    "05_data_quality": ("policies", "judges", "oracle", "responses", "estimation", "logging_policy"),
    "06_estimates": ("providers", "policies", "judges", "oracle", "estimation", "logging_policy"),
    "07_pi_bad_anomaly": ("policies", "oracle", "estimation", "logging_policy"),
    "08_ablation": ("policies", "oracle", "estimation", "logging_policy", "seed"),
    "09_ablation_summary": ("policies", "oracle", "estimation", "logging_policy", "ablations"),
    "10_simulation": ("policies", "estimation", "logging_policy", "seed"),
    "11_incident": ("policies", "oracle", "estimation", "logging_policy", "incident", "seed"),
}
#: What every stage reads; an import that is made anew counts as a change.
_ALWAYS = {"run", "title", "recording", "imported", "table"}
#: Instead of the pipeline, for params that reproduce an incident on another run.
INCIDENT = Stage("11_incident", results=("incident.json",))


def _of_recording(stage: Stage) -> Stage:
    """Nothing is asked for a recording. Stages that would ask wait for the prompts alone; what is made of their
    measurements waits for all of them, for each of them says what a recording lacks."""
    needs = stage.needs
    if stage.asks:
        needs = ("01_prompts",)
    elif needs == _SCORING:
        needs = tuple(name for name, other in STAGES.items() if other.asks)
    return replace(stage, asks=False, needs=needs)


def of(params: Params) -> dict[str, Stage]:
    """The stages of an experiment, by name: all of the pipeline with one for each cell of its ablation matrix, those
    that start from the analysis table where params bring it, or an incident's own. Raises ParamsError for a matrix with
    a name that is not registered, or beside a `table`."""
    if params.incident:
        return {INCIDENT.name: INCIDENT}
    if params.table:
        if params.ablations:
            raise ParamsError(
                "ablations: cells are measured on the records of a run: leave out `table`, or `ablations`"
            )
        of_a_table = {"06_estimates": (), "07_pi_bad_anomaly": ("06_estimates",), "10_simulation": ()}
        return {name: replace(STAGES[name], needs=needs, jobs=()) for name, needs in of_a_table.items()}
    known = {name: _of_recording(stage) for name, stage in STAGES.items()} if params.recording else STAGES
    if params.ablations is None:
        return known
    from arena10k.ablations import matrix

    cells = {cell.stage: cell.name for cell in matrix.cells(params)}
    made = {
        name: Stage(name, ("05_data_quality",), results=(f"ablations/{cell}/estimates.json",), cell=cell)
        for name, cell in cells.items()
    }
    summary = known["09_ablation_summary"]
    return known | made | {summary.name: replace(summary, needs=(*summary.needs, *cells))}


def waiting(planned: dict[str, Stage]) -> dict[str, int]:
    """By stage, how many others wait for it, directly or not: what most wait for goes first."""
    after: dict[str, set[str]] = {name: set() for name in planned}
    for name, stage in reversed(planned.items()):
        for need in stage.needs:
            after[need] |= {name} | after[name]
    return {name: len(others) for name, others in after.items()}


def reads(params: Params) -> dict[str, dict[str, Any]]:
    """By stage, what it reads of the params: a change re-runs it. Of the matrix a cell reads what all cells share."""
    out = {}
    for name, stage in of(params).items():
        out[name] = params.model_dump(mode="json", include={*STAGE_PARAMS[stage.notebook], *_ALWAYS})
        if stage.cell:
            shared = {"corrupted", "sweep", "seeds", "worst"}
            out[name]["ablations"] = section(params.ablations, "ablations").model_dump(mode="json", include=shared)
    return out


def sources(notebook: str) -> list[str]:
    """The files whose content a stage depends on: its notebook, the modules of the library that it reaches, and the
    data files that modules open by name."""
    path = paths.notebook(notebook)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else []
    code = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code")
    reached: set[Path] = set()
    waiting = _imported(code) | {_PACKAGE / "run.py"}
    while waiting:
        reached.add(module := waiting.pop())
        waiting |= _imported(module) - reached
    data = (file for folder in ("builtin", "templates") for file in (_PACKAGE / folder).rglob("*") if file.is_file())
    return sorted({str(file) for file in (path, *reached, *data)})


#: An import of the library in a code: of names from a module, or of a module.
_IMPORT = re.compile(r"^ *(?:from (arena10k[\w.]*) import (\([^)]*\)|.*)|import (arena10k[\w.]*))", re.MULTILINE)


@cache
def _imported(code: str | Path) -> set[Path]:
    """The modules of the library that a code or module imports, within functions too."""
    names: set[str] = set()
    for base, members, module in _IMPORT.findall(code if isinstance(code, str) else code.read_text(encoding="utf-8")):
        names |= {module or base} | {f"{base}.{member}" for member in re.findall(r"\w+", members)}
    bases = (_PACKAGE.parent.joinpath(*name.split(".")) for name in names)
    return {file for base in bases for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()}


def given(params: Params) -> list[str]:
    """The files that a run's data stands in where no stage collects it: a recording's, or those that params bring as
    the analysis table. A live run's store is none of them: its stages say when it is out of date."""
    if params.recording:
        files = paths.prompts_file(params.run), paths.records_file(params.run)
        return [str(file) for file in files if file.is_file()]  # what is absent is said by the stage that reads it
    table = params.table
    return [str(paths.home() / name) for name in (table.logged, table.fresh) if name] if table else []


def measured(params: Params) -> Params:
    """The params of the run whose records the stages read: an incident has none of its own."""
    return config.load(params.incident.clean) if params.incident else params


def stamp_file(run: str, stage: str) -> Path:
    """The small file that says a stage is done, and with which content."""
    return paths.reports_dir(run) / "stages" / f"{stage}.json"


def answer_file(run: str) -> Path:
    """What the first page says first, in words, beside the stamps: read without what it takes to work it out."""
    return paths.reports_dir(run) / "stages" / "answer.txt"


def executed_file(run: str, stage: str) -> Path:
    return paths.reports_dir(run) / "notebooks" / f"{stage}.ipynb"


def page_file(run: str, stage: str) -> Path:
    """The page of a stage; that of an ablation is in the folder of its cell."""
    notebook, _, cell = stage.partition(_CELL)
    folder = paths.reports_dir(run) / "ablations" / cell if cell else paths.reports_dir(run)
    return folder / f"{notebook}.html"


def is_current(params: Params, stage: Stage, again: bool = False) -> bool:
    """Whether the stage's page is what it would be if it ran now: its sources, what it reads of the params and what the
    stages it needs have made are those of its stamp, whenever they were written. `again`: failures are asked again."""
    stamp, page = stamp_file(params.run, stage.name), page_file(params.run, stage.name)
    if not (stamp.is_file() and page.is_file()) or failures.is_noted(params.run, stage.name) or (again and stage.asks):
        return False
    if json.loads(stamp.read_text(encoding="utf-8")).get("made_of") != _made_of(params, stage):
        return False
    for file in (page, stamp):
        file.touch()
    return True


def _made_of(params: Params, stage: Stage) -> str:
    """A digest of all that a stage depends on."""
    files = [Path(file).read_bytes() for file in (*sources(stage.notebook), *given(params))]
    stamps = [stamp_file(params.run, need) for need in stage.needs]
    read = [json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {} for file in stamps]
    needed = [{key: value for key, value in stamp.items() if key != "made_of"} for stamp in read]
    return digest([reads(params)[stage.name], needed, *(hashlib.sha256(file).hexdigest() for file in files)])


def execute(name: str, params_file: str, run: str | None) -> None:
    """Run one stage's notebook through papermill, render it, and write its stamp. Raises ArenaError with the one line
    that says what went wrong; the page with the failed cell is rendered all the same, unless the stage was told to
    stop, which is no failure."""
    warm.without_iris()
    from papermill import PapermillExecutionError

    params = config.load(params_file, run)
    stage, executed = of(params)[name], executed_file(params.run, name)
    parameters = {"params_file": str(params_file), "run_name": run or ""} | ({"cell": stage.cell} if stage.cell else {})
    for folder in (executed.parent, stamp_file(params.run, name).parent):
        folder.mkdir(parents=True, exist_ok=True)

    def failed(line: str) -> ArenaError:
        failures.note(params.run, name, f"{name}: {line}")
        return ArenaError(f"{name}: {line}")

    try:
        stopping.run_notebook(paths.notebook(stage.notebook), executed, parameters, stage.asks)
    except stopping.StoppedOnRequest:
        raise
    except PapermillExecutionError as error:
        if error.ename != NothingToShow.__name__:
            _render(params, name)
            said = error.evalue if error.ename in _PLAIN else f"{error.ename}: {error.evalue}"
            raise failed(" ".join(said.split())) from error
        _say_so(executed, error.evalue)
        for result in stage.results:
            paths.result_file(params.run, result).unlink(missing_ok=True)
    except Exception as error:
        # The notebook did not end: its kernel died, of too little memory or a signal.
        raise failed(f"{type(error).__name__}: {one_line(error)}") from error
    _render(params, name)
    failures.forget(params.run, name)
    _stamp(params, stage)


def _say_so(executed: Path, message: str) -> None:
    """Cut a notebook off at the cell that found nothing to show, and have it say why in the error's place."""
    import nbformat

    book = nbformat.read(executed, as_version=4)
    # Papermill puts cells of its own around an error.
    cells = [c for c in book.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", ())]
    last = next(i for i, c in enumerate(cells) if any(o.output_type == "error" for o in c.get("outputs", ())))
    shown = nbformat.v4.new_output("display_data", {"text/plain": message})
    cells[last].outputs = [o for o in cells[last].outputs if o.output_type != "error"] + [shown]
    book.cells = cells[: last + 1]
    nbformat.write(book, executed)


def _render(params: Params, name: str) -> None:
    from arena10k import report

    executed, page = executed_file(params.run, name), page_file(params.run, name)
    page.parent.mkdir(parents=True, exist_ok=True)
    home = Path(os.path.relpath(paths.reports_dir(params.run) / "index.html", page.parent)).as_posix()
    names = [None, *of(params), None]
    at = names.index(name)
    beside = [_neighbour(params, other, page.parent) for other in (names[at - 1], names[at + 1])]
    report.render(executed, page, {"run": params.run, "stage": name} | provenance(params), home, beside)


def show_failures(params: Params) -> None:
    """Render the pages of stages that failed: Snakemake has put back what they had made before."""
    for name in (name for name in of(params) if failures.is_noted(params.run, name)):
        executed = executed_file(params.run, name)
        if executed.is_file() and executed.stat().st_size:
            with suppress(ArenaError):  # without records no page says of when they are
                _render(params, name)


def _neighbour(params: Params, name: str | None, folder: Path) -> tuple[str, str] | None:
    """Address of a stage's page as seen from a folder, and its name."""
    if name is None:
        return None
    address = Path(os.path.relpath(page_file(params.run, name), folder)).as_posix()
    return quote(address), name.replace("_", " ")


def provenance(params: Params) -> dict[str, str | None]:
    """What a page says of where it comes from: the newest record's time, and the revision of the code."""
    from arena10k.run import Run

    params = measured(params)
    started = params.recording or paths.store_file(params.run).is_file()
    command = ["git", "-C", str(paths.source_root()), "rev-parse", "--short", "HEAD"]
    try:
        revision = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        revision = None
    if params.run in paths.RESERVED:
        revision = None  # of a run that is part of the repository, the pages are too, and cannot name their own commit
    return {"created": Run(params).created if started else None, "revision": revision}


def _stamp(params: Params, stage: Stage) -> None:
    """What later stages depend on: the content of the stage's records and results, not when they were made."""
    from arena10k.audit import status
    from arena10k.inputs import prompts  # with the clients of providers, which planning does without
    from arena10k.report import write_json

    source, stamp = measured(params), dict[str, Any](stage=stage.name)
    if not params.table:
        stamp["prompts"] = digest(prompts.read(source.run).to_dict("list"))
    if stage.jobs:
        jobs = [name for job in stage.jobs for name in (judging(source) if job == _JUDGES else [job])]
        stamp["records"] = status.open_store(source).content_digest(*jobs)
    for result in stage.results:
        path = paths.result_file(params.run, result)
        stamp[result] = digest(path.read_text(encoding="utf-8")) if path.is_file() else None
    stamp["made_of"] = _made_of(params, stage)
    write_json(stamp_file(params.run, stage.name), stamp)


def rule(name: str) -> str:
    """What Snakemake calls a stage."""
    return f"stage_{name}".replace("@", "_").replace(".", "_")


def unstamped(params: Params) -> list[str]:
    """The stages that have a page and no stamp, as `out_of_date` leaves them. Snakemake does not miss a stamp between
    pages that are there, and has to be told."""
    run = params.run
    return [name for name in of(params) if page_file(run, name).is_file() and not stamp_file(run, name).is_file()]


def out_of_date(run: str, *names: str) -> None:
    """Have the next `make report` run these stages again, and what depends on them if their content is another then."""
    for name in names:
        stamp_file(run, name).unlink(missing_ok=True)
