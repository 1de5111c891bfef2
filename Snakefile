# Which stage runs after which, and what makes one out of date. Everything else is in lib/arena10k/stages.py.
import json

from arena10k import config as arena_config
from arena10k import paths, stages

PARAMS_FILE = config.get("params") or "local"
PARAMS = arena_config.load(PARAMS_FILE, config.get("run") or None)
RUN = PARAMS.run
INDEX = paths.reports_dir(RUN) / "index.html"


rule report:
    input:
        INDEX,
    default_target: True


for STAGE in stages.STAGES.values():

    rule:
        name:
            f"stage_{STAGE.name}"
        input:
            after=[stages.stamp_file(RUN, need) for need in STAGE.needs],
            sources=stages.sources(STAGE.name),
        output:
            page=stages.page_file(RUN, STAGE.name),
            stamp=stages.stamp_file(RUN, STAGE.name),
        log:
            stages.executed_file(RUN, STAGE.name),
        params:
            stage=STAGE.name,
            reads=json.dumps(arena_config.stage_params(PARAMS, STAGE.name), sort_keys=True),
            params_file=PARAMS_FILE,
            run=config.get("run") or "",
        resources:
            # Stages that ask models share the endpoints' limits, so they go one after another.
            collecting=1 if STAGE.jobs and "quality" not in STAGE.name else 0,
        shell:
            "python -m arena10k stage {params.stage} --params {params.params_file:q} --run {params.run:q}"


rule index:
    input:
        [stages.page_file(RUN, name) for name in stages.STAGES],
        [stages.stamp_file(RUN, name) for name in stages.STAGES],
    output:
        INDEX,
    params:
        params_file=PARAMS_FILE,
        run=config.get("run") or "",
    shell:
        "python -m arena10k index --params {params.params_file:q} --run {params.run:q}"
