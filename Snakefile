# Which stage runs after which, and what makes one out of date. Everything else is in lib/arena10k/pipeline/stages.py.
import shlex
import sys

from arena10k import paths
from arena10k.inputs.policies import digest
from arena10k.params import config as arena_config
from arena10k.pipeline import stages, warm

PARAMS_FILE = config.get("params") or "local"
PARAMS = arena_config.load(PARAMS_FILE, config.get("run") or None)
RUN = PARAMS.run
INDEX = paths.reports_dir(RUN) / "index.html"
ARENA = shlex.join(warm.command([sys.executable, "-m", "arena10k"]))
STAGES = stages.of(PARAMS)
READS = stages.reads(PARAMS)
WAITING = stages.waiting(STAGES)
CELLS = sum(bool(stage.cell) for stage in STAGES.values())
OPTIONS = shlex.join([f"--params={PARAMS_FILE}", f"--run={config.get('run') or ''}"])


rule report:
    input:
        INDEX,
        stages.answer_file(RUN),
    default_target: True


for STAGE in STAGES.values():

    rule:
        name:
            stages.rule(STAGE.name)
        input:
            after=[stages.stamp_file(RUN, need) for need in STAGE.needs],
            sources=stages.sources(STAGE.notebook),
            given=stages.given(PARAMS),
        output:
            # Snakemake removes outputs before it runs a rule, unless they are updated: an unchanged stage keeps them.
            page=update(stages.page_file(RUN, STAGE.name)),
            stamp=update(stages.stamp_file(RUN, STAGE.name)),
        log:
            stages.executed_file(RUN, STAGE.name),
        params:
            command=shlex.join(["stage", STAGE.name, "--quietly"]),
            # What the stage reads of the params: a change re-runs it, a change elsewhere in the file does not.
            reads=digest(READS[STAGE.name]),
        priority: WAITING[STAGE.name]
        # Few cells share the cores among them; many run side by side, one core each.
        threads: max(1, (workflow.cores or 1) // CELLS) if STAGE.cell else 1
        # On a cluster, too, models are asked from here: the endpoint and the store are.
        localrule: STAGE.asks
        resources:
            # Stages that ask models share the endpoint, so they go one after another.
            collecting=int(STAGE.asks),
        shell:
            "LOKY_MAX_CPU_COUNT={threads} {ARENA} {params.command} {OPTIONS}"


rule index:
    input:
        [stages.page_file(RUN, name) for name in STAGES],
        [stages.stamp_file(RUN, name) for name in STAGES],
    output:
        INDEX,
        stages.answer_file(RUN),
    localrule: True
    shell:
        "{ARENA} index {OPTIONS}"
