"""The jobs of a run: what is measured, for which rows, and under which definition.

A record belongs to a job and carries the *context* it was made in: a digest of everything but the prompt that decides
what its value means. Only records in the context that the params describe now are used; others stay in the store.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from arena10k.inputs.policies import digest, policies, unit_hash
from arena10k.params.config import Params
from arena10k.params.judge import MODES, AnyGrader, CompletionJudge, PairGrader

RESPONSES, LOGPROBS = "responses", "logprobs"
#: A control: responses of the logging policy, scored as answers to other questions.
SHUFFLED = "logprobs_shuffled"
#: How many responses the control scores at most: no more than the logging policy's own log-probs take. They swap
#: questions in groups of so many.
SHUFFLED_ROWS, SHUFFLED_GROUP = 100, 20
#: What the job and the column of a judge's scores are called, before its name; and those of an import.
JUDGE = "judge_"
DETERMINISTIC, UNCERTAINTY = (f"{JUDGE}{mode}" for mode in MODES)
#: ``oracle`` labels a slice, which estimators may use; ``truth`` labels every draw and is only ever compared with.
ORACLE, TRUTH = "oracle", "truth"

Key = tuple[str, str]


def judging(params: Params) -> list[str]:
    """The jobs of the run's judges, in their order."""
    return [JUDGE + name for name in params.judge_names]


def grader_of(params: Params, job: str) -> AnyGrader | None:
    """The model that is asked for the scores or labels of a job."""
    return params.oracle.grader if job in (ORACLE, TRUTH) else params.judges.get(job.removeprefix(JUDGE))


def compares(params: Params, job: str) -> bool:
    """Whether the scores or labels of a job compare a response with the logging policy's."""
    is_vote = job == ORACLE and params.imported and params.imported.votes and params.oracle.grader is None
    return bool(is_vote) or isinstance(grader_of(params, job), PairGrader)


def contexts(params: Params) -> dict[Key, str]:
    """The current context of each (job, policy)."""
    out: dict[Key, str] = {}
    all_policies = policies(params)
    logging = all_policies[params.logging_policy].fingerprint
    out[SHUFFLED, params.logging_policy] = digest([SHUFFLED, logging, params.seed])
    judges = {JUDGE + name: _graded(params, judge, JUDGE + name, logging) for name, judge in params.judges.items()}
    oracle = _graded(params, params.oracle.grader, ORACLE, logging) if params.oracle.grader else params.oracle.kind
    for name, policy in all_policies.items():
        own = policy.fingerprint
        out[RESPONSES, name] = digest([RESPONSES, own, params.seed])
        out[LOGPROBS, name] = digest([LOGPROBS, own, logging, params.seed])
        out |= {(job, name): digest([job, own, definition, params.seed]) for job, definition in judges.items()}
        out |= {(job, name): digest([job, own, oracle, params.seed]) for job in (ORACLE, TRUTH)}
        if policy.is_imported:
            out |= {(job, name): imported_context(job, own) for job in _imported(params)}
    return out


def imported_context(job: str, fingerprint: str) -> str:
    """The context of records that others made: nothing is known of how, so nothing in the params can change it."""
    return digest(["imported", job, fingerprint])


def _imported(params: Params) -> list[str]:
    """The jobs of imported policies; scores and labels are the source's unless the params name a grader."""
    scores = [] if params.judges else judging(params)
    return [RESPONSES, LOGPROBS, *scores, *(() if params.oracle.grader else (ORACLE, TRUTH))]


def _graded(params: Params, grader: AnyGrader, job: str, logging: str) -> dict[str, Any]:
    """What decides the scores of a grader, and where they come from; `logging` is the logging policy's fingerprint."""
    definition, provider = grader.definition(), params.providers[grader.provider]
    if isinstance(grader, PairGrader):
        definition["against"] = logging
    if not isinstance(grader, CompletionJudge):
        definition["endpoint"] = provider.endpoint
    elif job != JUDGE + grader.mode:  # where the name is that of the mode, it tells
        definition["mode"] = grader.mode
    return definition | ({"provider": provider.asked} if provider.asked else {})


def labels_wanted(params: Params, prompt_ids: Iterable[str]) -> dict[str, set[tuple[str, str, int]]]:
    """The (policy, prompt_id, draw) to label, by job: the first draw of a target, every logged draw of P0.

    All policies are labelled on the same prompts, as far as their numbers go, so that policies are compared on equal
    questions and the transport test does not mistake harder prompts for a judge that fails. The slice is stable when
    prompts are reordered.
    """
    order = sorted(prompt_ids, key=lambda p: unit_hash(params.seed, ORACLE, p))
    out: dict[str, set[tuple[str, str, int]]] = {ORACLE: set(), TRUTH: set()}
    for policy in params.policies:
        is_logging = policy == params.logging_policy
        size = round(_p0_fraction(params) * len(order)) if is_logging else params.oracle.target_labels
        draws = range(params.responses.logged_draws if is_logging else 1)
        out[ORACLE] |= {(policy, p, d) for p in order[:size] for d in draws}
        if params.oracle.truth:
            out[TRUTH] |= {(policy, p, d) for p in order for d in range(params.responses.draws)}
    return out


def _p0_fraction(params: Params) -> float:
    return 0.0 if compares(params, ORACLE) else params.oracle.p0_fraction


def can_score(params: Params, policy: str) -> bool:
    """Whether the policy's endpoint gives log-probs of a given response."""
    return params.providers[params.policies[policy].provider].capabilities.echo_logprobs


def expected(params: Params, n_prompts: int) -> dict[Key, int]:
    """How many records each (job, policy) has when everything is collected. Log-probs are due where the endpoint can
    score; recordings are not asked for controls; of imported policies nothing is due beyond what the source has."""
    totals: dict[Key, int] = {}
    draws, logged = params.responses.draws, params.responses.logged_draws
    for policy in params.policies:
        is_logging = policy == params.logging_policy
        totals[RESPONSES, policy] = n_prompts * draws
        if can_score(params, policy):
            totals[LOGPROBS, policy] = n_prompts * logged
        for name, judge in params.judges.items():
            if not (is_logging and isinstance(judge, PairGrader)):
                totals[JUDGE + name, policy] = n_prompts * min(judge.draws, draws)
        oracle = round(_p0_fraction(params) * n_prompts) * logged if is_logging else params.oracle.target_labels
        totals[ORACLE, policy] = min(oracle, n_prompts * (logged if is_logging else 1))
        if params.oracle.truth:
            totals[TRUTH, policy] = n_prompts * draws
    if n_prompts > 1 and not params.recording and can_score(params, params.logging_policy):
        totals[SHUFFLED, params.logging_policy] = min(SHUFFLED_ROWS, n_prompts)
    if params.imported:
        due = params.imported.due
        for name in (name for name, policy in policies(params).items() if policy.is_imported):
            totals |= {(job, name): due.get(job, {}).get(name, 0) for job in _imported(params)}
    return {key: total for key, total in totals.items() if total}
