"""The command line: `arena10k --help`. Errors a user can mend end in one line and exit code 2."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from arena10k import options, paths
from arena10k.errors import ArenaError, unknown
from arena10k.params import config
from arena10k.pipeline import runner

_params = click.option(
    "--params", "params_file", default="local", show_default=True, help="Params file of the experiment."
)
_run = click.option("--run", default="", help="Data folder, where it is not the one the params file names.")
_params_of_run = click.option(
    "--params", "params_file", default=None, help="Params file, where it is not named as the run."
)


#: A disk that is full, read-only or not there.
_NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.ENOENT}


def _no_place(error: OSError) -> str:
    where = error.filename or paths.home()
    return f"{where}: {error.strerror}; ARENA10K_HOME names the folder that holds data/ and reports/"


class _Commands(click.Group):
    """Shows the errors that are the user's to mend as one line each, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ArenaError as error:
            for line in str(error).splitlines():
                click.echo(f"error: {line}", err=True)
            ctx.exit(2)
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
            click.echo(f"error: {_no_place(error)}", err=True)
            ctx.exit(2)


@click.group(cls=_Commands)
@click.version_option(package_name="arena10k")
def main() -> None:
    """Off-policy evaluation of LLM policies from logged responses."""


@main.command()
@_params
@_run
@click.option("--cores", default=2, show_default=True, help="Stages that may run at once.")
@click.option("--profile", default="", help="A folder of profiles/ (or a path): where stages run, such as slurm.")
@click.option("--yes", is_flag=True, help="Spend what the params' prices say without asking.")
@click.option("--retry-errors", is_flag=True, help="Ask again for measurements that failed; the failures are kept.")
@click.option("--cost", is_flag=True, help="Only say what is left of it would cost at most; needs no key.")
@click.option("--open", "show", is_flag=True, help="Open the report's first page in a browser at the end.")
def report(
    params_file: str, run: str, cores: int, profile: str, yes: bool, retry_errors: bool, cost: bool, show: bool
) -> None:
    """Run what is out of date of an experiment and write reports/<run>/index.html."""
    from arena10k.pipeline import spending, stopping

    if cost:
        params = config.load(params_file, run or None)
        spending.check_labels(params)
        for line in spending.lines(params, retry_errors):
            click.echo(line)
        return
    try:
        with stopping.hearing(signal.default_int_handler):
            _report(params_file, run or None, cores, profile, yes, retry_errors or options.is_on("retry_errors"), show)
    except KeyboardInterrupt:
        context = click.get_current_context()
        words = [context.command_path]
        for option in context.command.params:
            value = context.params[option.name or ""]
            if value and value != option.default:
                words += [option.opts[0], *([] if value is True else [shlex.quote(str(value))])]
        click.echo(f"stopped on request, what was collected is kept; to go on: {' '.join(words)}", err=True)
        sys.exit(130)


def _report(
    params_file: str, run: str | None, cores: int, profile: str, yes: bool, retry_errors: bool, show: bool
) -> None:
    from arena10k.inputs.policies import policies
    from arena10k.pipeline import failures, spending, stages, stopping

    params = config.load(params_file, run)
    policies(params)  # names a chat template that cannot be used
    for name in params.asked if not params.recording else ():
        if variable := params.providers[name].api_key_env:
            options.secret(f"providers.{name}", variable)
    if params.recording:
        paths.recorded_file(params.run)
    spending.check_labels(params)
    agreed = yes or options.is_on("yes") or spending.agreed(params, retry_errors)
    if not agreed:
        click.echo("error: not agreed to, nothing was asked (--yes agrees in advance)", err=True)
        sys.exit(1)
    file, opened = config.opened(params_file, run)
    command = runner.command(str(file), opened or "", cores) + runner.profile_options(profile)
    with runner.only_one(params.run):
        if not paths.prompts_file(params.run).is_file():
            stages.out_of_date(params.run, "01_prompts")  # its stamp may be of prompts that were removed
        # Snakemake puts back what a stage that failed had made before, and finds it in order.
        again = [
            name
            for name, stage in stages.of(params).items()
            if (retry_errors and stage.asks) or failures.is_noted(params.run, name)
        ]
        if forced := dict.fromkeys([*again, *stages.unstamped(params)]):
            command += ["--forcerun", *map(stages.rule, forced)]
        before = failures.latest(params.run)
        os.environ |= runner.cache(params.run)  # of this process, too, which says the answer at the end
        environment = options.environment(yes=agreed, retry_errors=retry_errors)
        code = stopping.run(command, environment)
    index = paths.reports_dir(params.run) / "index.html"
    if code:
        stages.show_failures(params)  # and raises the fault of an ablation matrix as one line
        unplanned = "the pipeline could not be planned:"
        for line in failures.lines(params.run, before) or [unplanned, *runner.plan(command)]:
            click.echo(f"error: {line}", err=True)
        if index.is_file():
            click.echo(f"Pages that could be made: {index}", err=True)
        sys.exit(1)
    failures.forget(params.run)
    click.echo(stages.answer_file(params.run).read_text(encoding="utf-8").strip())
    click.echo(f"Report: {index}")
    if show:
        click.launch(str(index))


@main.command(hidden=True)
@click.argument("name")
@_params
@_run
@click.option("--quietly", is_flag=True, help="Leave telling of a failure to the pipeline.")
def stage(name: str, params_file: str, run: str, quietly: bool) -> None:
    """Run one stage's notebook and render its page (what the pipeline calls)."""
    from arena10k.pipeline import failures, stages

    params = config.load(params_file, run or None)
    if (asked := stages.of(params).get(name)) is None:
        raise unknown("stage", name, stages.of(params))
    if quietly and stages.is_current(params, asked, options.is_on("retry_errors")):
        return
    started, every = time.monotonic(), list(stages.of(params))
    where = f"stage {every.index(name) + 1} of {len(every)}: {name}"
    if quietly and asked.asks:  # its progress follows
        click.echo(where, err=True)
    try:
        stages.execute(name, params_file, run or None)
    except (ArenaError, OSError) as error:
        if not quietly:
            raise
        if isinstance(error, OSError):
            failures.note(params.run, name, f"{name}: {_no_place(error)}")
        sys.exit(1)
    if quietly:
        click.echo(f"{where}: {time.monotonic() - started:.0f} s", err=True)


@main.command(hidden=True)
@_params
@_run
def index(params_file: str, run: str) -> None:
    """Write reports/<run>/index.html from the pages that are there (what the pipeline calls)."""
    from arena10k.pipeline import first_page

    first_page.write_index(config.load(params_file, run or None))


@main.command()
@click.argument("run")
@_params_of_run
def status(run: str, params_file: str | None) -> None:
    """How far a run is, also while it is collecting, and what stopped it."""
    from arena10k.audit import status as progress
    from arena10k.pipeline import failures

    params = config.load(params_file or run, run)
    file, opened = config.opened(params_file or run, run)
    names_run = opened and config.contents(file).get("run") != opened
    command = shlex.join(["arena10k", "report", "--params", params_file or run, *(["--run", run] if names_run else [])])
    for line in failures.explained(run, command, runner.is_at_work(run)):
        click.echo(line)
    store = progress.open_store(params)
    state = progress.progress(params, store, now=time.time())
    jobs = progress.frame(state).drop(columns=["errors", "attempts"])
    click.echo(progress.sentence(state))
    click.echo(jobs.to_string(index=False, na_rep="-", float_format="{:.1f}".format))
    click.echo(progress.controls_sentence(*progress.controls(params, store)))


@main.command()
@click.argument("run")
@_params_of_run
@click.option("--to", type=click.Path(path_type=Path), default=None, help="Folder (default: the run's own).")
def export(run: str, params_file: str | None, to: Path | None) -> None:
    """Write a run's prompts and records as Parquet: a recording that others can read and re-analyse."""
    import shutil

    from arena10k.audit import status as progress

    params = config.load(params_file or run, run)
    folder = to or paths.data_dir(params.run)
    folder.mkdir(parents=True, exist_ok=True)
    rows = progress.open_store(params).export(folder / "records.parquet")
    source = paths.prompts_file(params.run)
    if source.parent.resolve() != folder.resolve():
        shutil.copyfile(source, folder / source.name)
    click.echo(f"{rows:,} records of {params.run} in {folder}")


@main.command()
@click.argument("run")
@_params_of_run
@click.option("--policy", default=None, help="Only rows of this policy.")
@click.option("--code", default=None, help="Only rows with this error code or quarantine reason.")
@click.option("--yes", is_flag=True, help="Spend what the params' prices say without asking.")
def rescore(run: str, params_file: str | None, policy: str | None, code: str | None, yes: bool) -> None:
    """Measure again what failed or was quarantined, under the same definition, and say what changed."""
    from arena10k.pipeline import stages
    from arena10k.rescoring import history
    from arena10k.rescoring.rescore import rescore as measured_again
    from arena10k.run import Run

    params = config.load(params_file or run, run)
    if yes:
        os.environ[options.VARIABLES["yes"]] = "1"
    with runner.only_one(params.run):
        before = history.read(params.run)
        try:
            entry = measured_again(Run(params), policy, code)
        finally:
            if history.read(params.run) != before:
                names = (stage.name for stage in stages.STAGES.values() if stage.jobs)
                stages.out_of_date(params.run, *names, "00_status")
    if entry is None:
        click.echo("Nothing to measure again: no such row failed or is quarantined.")
        return
    for line in history.lines(entry):
        click.echo(line)
    click.echo(f"Audit: {paths.result_file(params.run, history.FILE)}")


@main.command()
@click.argument("run")
@click.argument("name")
@_params_of_run
def snapshot(run: str, name: str, params_file: str | None) -> None:
    """Keep the present estimates of a run under a name, to compare later ones with (09_ablation_summary)."""
    from arena10k.pipeline import stages
    from arena10k.rescoring import snapshots
    from arena10k.run import Run

    params = config.load(params_file or run, run)
    path, new = snapshots.take(Run(params), name)
    if new:
        stages.out_of_date(params.run, "09_ablation_summary")
    click.echo(f"Snapshot {name}{'' if new else ' is there already, with the same content'}: {path}")


class _Import(click.Group):
    """What is not the name of a command is a file."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["file", *args])


@main.group("import", cls=_Import, invoke_without_command=True, subcommand_metavar="[FILE]... | cje | table")
@click.option("--list", "listed", is_flag=True, help="Name the tools whose logs are read as they are.")
@click.pass_context
def import_(context: click.Context, listed: bool) -> None:
    """Make a run of data that others collected: logs of other tools, JSON, CSV, Parquet (arena10k import FILE), tables
    that a params file describes, CJE's layout."""
    if listed:
        from arena10k.interchange import maps

        for name, own in maps.shipped().items():
            click.echo(f"{name:24} {own.about}")
    elif context.invoked_subcommand is None:
        click.echo(context.get_help())


@import_.command("file")
@click.argument("files", nargs=-1, required=True, metavar="[POLICY=]FILE...")
@click.option("--run", default="", help="Name of the run that is made (default: that of the first file).")
@click.option(
    "--map", "map_", default="", help="How the files are read (arena10k import --list); else it is found out."
)
@click.option("--column", "columns", multiple=True, metavar="FIELD=PATH", help="Which column holds a field, such as "
              "judge=scores.match.value (prompt_id, prompt, response, policy, judge, label, ...).")  # fmt: skip
@click.option("--old", default="", metavar="COLUMN", help="Where a row has two answers the old ones; "
              "--column judge=score is then score_old and score_new, as the columns of the answers end.")  # fmt: skip
@click.option("--new", default="", metavar="COLUMN", help="The new ones.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="More of a table, as docs/data.md has it, "
              "such as where.filter=none or exact=true.")  # fmt: skip
@click.option("--judge-scale", nargs=2, type=float, default=(0, 1), show_default=True, help="Range of judge scores.")
@click.option("--oracle-scale", nargs=2, type=float, default=(0, 1), show_default=True, help="Range of labels.")
@click.option("--logging-policy", default="", help="The policy that others are compared with (default: the first).")
def import_file(
    files: tuple[str, ...], run: str, map_: str, columns: tuple[str, ...], settings: tuple[str, ...],
    logging_policy: str, old: str, new: str, **scales: tuple[float, float],
) -> None:  # fmt: skip
    """Import FILE as it is: the log of a tool, or rows whose columns are named with --column."""
    from arena10k import interchange
    from arena10k.interchange import described

    keys = [f"columns.{pair}" for pair in columns] + list(settings)
    keys += [f"{key}={column}" for key, column in (("old", old), ("new", new)) if column]
    name, declared, said = described.files(files, run, map_, keys, scales)
    for line in said:
        click.echo(line)
    account = interchange.import_tables(name, declared, logging_policy or None, "files")
    _say_imported(account, f"params/imported.yaml RUN={name}")


@import_.command("cje")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--run", required=True, help="Name of the run that is made (data/<run>).")
@click.option("--judge-scale", nargs=2, type=float, default=(0, 1), show_default=True, help="Range of judge_score.")
@click.option("--oracle-scale", nargs=2, type=float, default=(0, 1), show_default=True, help="Range of oracle_label.")
@click.option("--logging-policy", default="base", show_default=True, help="File name prefix of the logging policy.")
def import_cje(folder: Path, run: str, logging_policy: str, **scales: tuple[float, float]) -> None:
    """Import FOLDER: logged_data.jsonl, fresh_draws/<policy>_responses.jsonl, probe_slice/<policy>_probe.jsonl."""
    from arena10k import interchange

    _say_imported(interchange.import_cje(folder, run, logging_policy, **scales), f"params/imported.yaml RUN={run}")


@import_.command("table")
@click.argument("params_file", metavar="PARAMS")
@click.option("--run", default="", help="Name of the run, where it is not the one the params file names.")
def import_table(params_file: str, run: str) -> None:
    """Import the JSON lines or Parquet files whose columns the section `imported` of PARAMS names."""
    from arena10k import interchange

    name, logging_policy, declared = config.load_import(params_file, run or None)
    account = interchange.import_tables(name, declared, logging_policy)
    _say_imported(account, f"{params_file}{f' RUN={run}' if run else ''}")


def _say_imported(account: dict[str, Any], params: str) -> None:
    from arena10k import interchange

    for line in interchange.lines(account):
        click.echo(line)
    click.echo(f"Next: make report PARAMS={params}")


@main.command("serve-local")
@click.option("--port", default=8000, show_default=True)
def serve_local(port: int) -> None:
    """Serve the embedded model on loopback, OpenAI-compatible, until Ctrl-C."""
    from arena10k.local_server.__main__ import main as serve

    click.echo(f"OpenAI-compatible endpoint: http://127.0.0.1:{port}/v1 (models: GET /v1/models); Ctrl-C stops it.")
    serve.main(args=["--port", str(port)], standalone_mode=False)
