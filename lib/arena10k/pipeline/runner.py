"""The pipeline as a process: its command line, one at a time per run, and Snakemake as it starts it.

That is `python -m arena10k.pipeline.runner` with the options of `snakemake`: at the signal `stopping.STOP` it starts
nothing more, cancels what a cluster has of it, and says nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from arena10k import paths
from arena10k.errors import ArenaError

#: `collecting`: stages that ask models share the endpoint, and go one after another. A profile would be announced.
_OPTIONS = [
    "--workflow-profile", "none", "--nolock", "--keep-going", "--rerun-incomplete", "--resources", "collecting=1",
    "--scheduler", "greedy", "--rerun-triggers", "mtime", "params", "input", "--quiet", "all",
    "--max-checksum-file-size", "100000000",
]  # fmt: skip


def command(params_file: str, run: str, cores: int) -> list[str]:
    """Snakemake's command line for an experiment; `run` is empty where the params name it."""
    path = paths.params_file(params_file)
    named = paths.shown(path)
    if paths.home() / named != path and (paths.home() / named).is_file():  # a namesake would be taken for it
        named = str(path)
    return [
        sys.executable, "-m", "arena10k.pipeline.runner", "--snakefile", str(paths.source_root() / "Snakefile"),
        "--directory", str(paths.home()), *_OPTIONS, "--cores", str(cores), "--config", f"params={named}", f"run={run}",
    ]  # fmt: skip


def profile_options(name: str) -> list[str]:
    """Options for a Snakemake profile beside the default one, such as an executor of a cluster."""
    if not name:
        return []
    for folder in (paths.source_root() / "profiles" / name, Path(name).resolve()):
        if (folder / "config.yaml").is_file():
            return ["--profile", str(folder)]
    known = ", ".join(sorted(p.parent.name for p in (paths.source_root() / "profiles").glob("*/config.yaml")))
    raise ArenaError(f"--profile {name}: no folder with a config.yaml of this name; profiles/ has {known}")


def plan(command: list[str]) -> list[str]:
    """The last lines Snakemake says of a plan that it cannot make; `--quiet` hides them."""
    at = command.index("--quiet")
    command = [*command[:at], *command[at + 2 :], "--dry-run"]
    planned = subprocess.run(command, check=False, capture_output=True, text=True)
    return (planned.stderr or planned.stdout).splitlines()[-8:]


def cache(run: str) -> dict[str, str]:
    """Where Snakemake, Matplotlib and IPython keep files of their own, if the home folder cannot hold them: with the
    run's pages."""
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    own = paths.reports_dir(run) / ".cache"
    places = {"XDG_CACHE_HOME": kept if _holds_files(kept) else own}
    if not _holds_files(Path("~").expanduser()):
        places |= {"MPLCONFIGDIR": own / "matplotlib", "IPYTHONDIR": own / "ipython"}
    return {name: str(folder) for name, folder in places.items()}


def _holds_files(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _lock_file(run: str) -> Path:
    return paths.reports_dir(run) / ".lock"


@contextmanager
def only_one(run: str) -> Iterator[None]:
    """One pipeline per run at a time. The lock goes with the process, so a killed run leaves nothing to clean up."""
    import fcntl

    _lock_file(run).parent.mkdir(parents=True, exist_ok=True)
    with _lock_file(run).open("w") as file:
        for left in (2, 1, 0):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:  # of a run, or for a moment of `is_at_work`
                if not left:
                    raise ArenaError(f"{run}: another `make report` of this run is still at work") from error
                time.sleep(0.1)
        yield


def is_at_work(run: str) -> bool:
    """Whether the pipeline of a run is at work now."""
    import fcntl

    if not _lock_file(run).is_file():
        return False
    with _lock_file(run).open() as file:
        try:
            # Shared, so that two who ask at once do not see each other.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _interrupt(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def _helpers(params_file: str, run: str) -> Iterator[None]:
    """What stages run by, which loads while Snakemake does where there is something to be done: the processes that they
    are forked from, and one server of the embedded model for all of a run that has not been collected."""
    from arena10k.local_server import shared
    from arena10k.params import config
    from arena10k.pipeline import stages, warm

    params = config.load(params_file, run or None)
    due, missing = [], False
    for name, stage in stages.of(params).items():
        stamp = stages.stamp_file(params.run, name)
        missing |= stage.asks and not stamp.is_file()
        if not stamp.is_file() or max(map(os.path.getmtime, stages.sources(stage.notebook))) > stamp.stat().st_mtime:
            due.append(name)
    collecting = any(stages.STAGES[name].asks for name in due if name in stages.STAGES)
    with ExitStack() as stack:
        stack.enter_context(warm.pool((*warm.LOADED, *["openai"] * collecting) if due else ()))
        if missing and any(params.providers[name].kind == "embedded" for name in params.asked):
            with suppress(OSError):  # a folder that cannot be written: the stage says so
                stack.enter_context(shared(paths.server_log(params.run)))
        yield


def main() -> None:
    from arena10k.pipeline.stopping import STOP

    try:
        signal.signal(STOP, _interrupt)  # before this the signal ends the process, which has begun nothing
        at = sys.argv.index("--config")
        with _helpers(*(word.split("=", 1)[1] for word in sys.argv[at + 1 : at + 3])):
            from snakemake.cli import main as snakemake

            snakemake()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
