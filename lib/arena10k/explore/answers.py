"""What a `Run` answers: sentences, tables, figures drawn when asked for. First when it is to estimate, diagnose or
explain, then with single rows: one prompt across policies, the rows that carry the weight, judge against oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from arena10k import plots, report
from arena10k.attribution import weights, words
from arena10k.attribution.investigation import Investigation
from arena10k.errors import ArenaError, NothingToShow, unknown
from arena10k.estimation import diagnostics
from arena10k.estimation.evaluation import Evaluation
from arena10k.estimation.verdicts import accepted
from arena10k.explore.source import Chosen
from arena10k.explore.view import Listing, View
from arena10k.frames.records import KEY
from arena10k.frames.table import Table
from arena10k.report import findings, reasons
from arena10k.wording import level, listed, percent, rounded

#: Up to so many estimates are shown at once; of more, each policy's most trusted one.
_ALL_SHOWN = 12
#: A judge that is off by more than this says the opposite of the oracle.
FAR_OFF = 0.5


class Estimates(Listing):
    """What `run.estimate()` answers.

    `frame`: one row per policy, judge and estimator with the fields of `estimates.json`, reasons as one text.
    `rows`: the same as lists and numbers. `ranking`: who may be reported, best first; equal ranks are ties.
    `contrasts`: the difference of every two of them. `study`: everything computed, for the library's functions.
    `n`: prompts used.
    """

    def __init__(self, study: Evaluation, part: Chosen, judges: Sequence[str]):
        self.study, self.rows, self.n = study, study.rows, part.n
        study = dataclasses.replace(study, judge=judges[0])
        self.ranking, contrasts = study.ranking, study.result["contrasts"]
        self.contrasts, frame = findings.contrasts_frame(contrasts), findings.estimates_frame(self.rows)
        sentences = [*part.sentences, findings.estimates_sentence(self.rows, judges[0])]
        if max((row["labels_needed"] or 0 for row in self.rows), default=0) > part.n:
            limit = f"the {part.n:,} prompts asked about"
            sentences.append(f"Where more labels are needed than {limit}, it takes more prompts.")
        if len(study.of_judge(judges[0])) > 1:
            sentences.append(findings.contrasts_sentence(contrasts, study.result["ranking"]))
        caption = f"Every estimate (judge{'s' * (len(judges) > 1)} {' and '.join(judges)})"
        tables: list[Any] = [findings.estimates_table(frame, caption, ["judge"] * (len(judges) > 1))]
        headline = findings.headline_frame(study.result)
        if len(frame) > _ALL_SHOWN and len(headline):
            caption = f"The headline estimate of each policy (judge {judges[0]})"
            first = findings.estimates_table(headline, caption)
            tables = [first, report.Folded(f"All {len(frame):,} estimates are in .frame", *tables)]
        truth = dict(zip(part.table.truth.policy, part.table.truth.value, strict=True))
        super().__init__(frame, sentences, *tables, figures={"forest": lambda: plots.forest(frame, truth)})


class Diagnosis(View):
    """What `run.diagnose(policy)` answers.

    `verdicts`: the policy's rows of `run.estimate()`. `problems`: what speaks against them, one row per reason, in
    words, with the estimators it concerns. `measures`: what is behind them, by name. `context`: the
    diagnostics as the library's functions take them.
    """

    def __init__(self, policy: str, judge: str, study: Evaluation, part: Chosen):
        self.policy, self.judge, self.context = policy, judge, study.contexts[policy, judge]
        self.verdicts = findings.estimates_frame(study.rows)
        rows = findings.counted(study.rows)
        concerned: dict[str, list[str]] = {}
        for reason, estimator in ((reason, row["estimator"]) for row in rows for reason in row["reasons"]):
            concerned.setdefault(reason, []).append(estimator)
        problems = [(r, reasons.sentence(r, self.context), ", ".join(names)) for r, names in concerned.items()]
        self.problems = pd.DataFrame(problems, columns=["reason", "what is wrong", "concerns"])
        self.measures = self._measures(rows)
        sentences = [*part.sentences, self._verdicts(rows)]
        missing, quarantined = part.table.missing.get(policy, 0), part.table.quarantined.get(policy, 0)
        if policy == part.table.logging_policy:
            sentences.append(f"{policy} is the logging policy: its weights are 1 by definition.")
        elif missing:
            why = f", {quarantined:,} of them because a value is quarantined" if quarantined else ""
            sentences.append(f"{missing:,} logged rows have no usable weight{why}.")
        super().__init__(
            sentences,
            *([report.table(self.problems, text=["what is wrong"])] if len(self.problems) else []),
            report.table([{"measure": name, "value": report.format_value(x)} for name, x in self.measures.items()]),
            report.Folded("The estimates are in .verdicts", report.table(self.verdicts, columns=findings.ESTIMATE)),
            figures=self._drawings(part),
        )

    def _verdicts(self, rows: list[dict[str, Any]]) -> str:
        """Which estimates are accepted, and whether weights alone may be used."""
        if self.context.data.known is not None:
            return f"The value of {self.policy} is {self.context.data.known:g} by definition: nothing estimates it."
        by: dict[str, list[str]] = {}
        for row in rows:
            is_raw = row["verdict"] != "REFUSE" and not accepted(row)
            by.setdefault("raw" if is_raw else row["verdict"], []).append(row["estimator"])
        parts = [f"{listed(by['REPORT'])} may be reported" if "REPORT" in by else "none may be reported as it is"]
        if "CAUTION" in by:
            parts.append(f"{listed(by['CAUTION'])} with caution")
        if "raw" in by:
            parts.append(f"{listed(by['raw'])} only on the judge's scale")
        if "REFUSE" in by:
            parts.append(f"{listed(by['REFUSE'])} {'is' if len(by['REFUSE']) == 1 else 'are'} refused")
        return f"Of {len(rows)} estimates of {self.policy}, {'; '.join(parts)}."

    def _measures(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        ctx, audit, transport = self.context, self.context.audit, self.context.transport
        needed = next((row["labels_needed"] for row in rows if row["labels_needed"] is not None), None)
        of_weights = {
            "judged rows with a weight": audit.n,
            "mean weight (1 where the log represents the policy)": audit.mean_weight,
            "effective sample size": audit.ess if audit.n else None,
            "weight of the ten heaviest rows": diagnostics.top_shares(ctx.prep.raw_log_weight)["top_10"],
            "k-hat of the tail": audit.khat,
            "share of the policy that by them is not in the log": ctx.missing_mass if audit.n else None,
        }
        auc = [diagnostics.judge_auc(rows.judge, rows.label) for rows in (ctx.data.logged, ctx.data.fresh)]
        judging = {
            "AUC of the judge on logged labels (0.5 is guessing)": auc[0],
            "AUC on the policy's own draws": auc[1],
            "transport of the calibration": transport.status,
            f"its error on {reasons.EVIDENCE.get(transport.evidence, 'nothing')}": transport.residual,
            "labels' worth of calibration where its draws score": ctx.effective_labels,
            "labels on the policy's own draws": transport.n_labels,
            f"labels there that a width of {ctx.analysis.width:g} takes (PPI++)": needed,
        }
        return judging if ctx.is_logging else of_weights | judging

    def _drawings(self, part: Chosen) -> dict[str, Any]:
        """Figures of the rows that the measures beside them are of."""
        policy, column = self.policy, f"judge_{self.judge}"
        judged = dataclasses.replace(part.table, logged=part.table.logged.dropna(subset=[column]))
        score, label = judged.logged[column].to_numpy(float), judged.logged.label.to_numpy(float)
        figures: dict[str, Any] = {"forest": lambda: plots.forest(self.verdicts)}
        if np.isfinite(score + label).any():
            figures["reliability"] = lambda: plots.reliability(score, label)
        own = {p: w for p, w in judged.log_weights().items() if p == policy and np.isfinite(w).any()}
        if own:
            figures["log_weights"] = lambda: plots.log_weights(own)
            figures["overlap"] = lambda: plots.overlap(own)
            figures["ccdf"] = lambda: plots.ccdf(own)
            figures["reward_by_weight"] = lambda: plots.reward_by_weight(own, {policy: score})
            figures["permutation"] = lambda: plots.permutation({policy: self.context.permutation})
        return figures


class Explanation(View):
    """What `run.explain(policy)` answers.

    `row`: the policy's row of `anomaly.json`, with `published`, `trusted`, `gap`, `main_cause` and `anomaly` (None: not
    testable). `parts`: what the gap is made of, by cause, with intervals. `heavy`: the logged rows that carry most of
    the published weight. `sentence`: the verdict. `investigation`: of all policies, for the library's functions.
    """

    def __init__(self, policy: str, inv: Investigation, part: Chosen, top: int = 10):
        of_policy = inv.policies[policy]
        self.policy, self.investigation = policy, inv
        self.row: dict[str, Any] = words.anomaly_row(of_policy, inv)
        self.sentence: str = self.row["sentence"]
        self.parts = words.parts_frame(self.row)
        score = f"judge_{inv.judge}"
        judged = part.table.logged.dropna(subset=[score])
        self.heavy = weights.heavy_rows(judged, of_policy.log_weight, judged[score].to_numpy(float), top)
        sentences = [*part.sentences, self.sentence]
        if inv.flip is not None and policy in (inv.flip.winner, inv.flip.rival):
            sentences.append(words.flip_sentence(inv))
        if policy == inv.focus.policy:
            sentences.append(words.mass_sentence(inv))
        shown: list[report.Table | report.Drawn] = []
        figures: dict[str, Any] = {}
        if of_policy.trusted is not None:
            intervals = f"{level(of_policy.confidence)} intervals"
            caption = f"What the gap between published and trusted value is made of (Shapley values, {intervals})"
            figures["waterfall"] = lambda: plots.waterfall(self.row)
            shown += [report.table(self.parts, caption=caption), *([figures["waterfall"]()] * bool(of_policy.anomaly))]
        if len(self.heavy):
            figures["overlap"] = lambda: plots.overlap({policy: of_policy.log_weight})
            game, band = of_policy.game, self.row["trusted_ci"]
            paths = (game.published_log_weight, game.prep.logged.judge)
            figures["shrinkage"] = lambda: plots.shrinkage(policy, weights.shrinkage_paths(*paths), band)
        if len(self.heavy) and policy != inv.logging_policy:
            shown.append(_heavy_table(self.heavy, f"The heaviest of {len(judged):,} judged responses for {policy}"))
        super().__init__(sentences, *shown, figures=figures)


class PromptView(View):
    """What `run.prompt(id)` answers: `prompt` (a row of `run.prompts`), `responses` with judge scores and labels, and
    `logged`: the log-probs of P0's responses under every policy with their log-weights (nats). Raises ArenaError for a
    prompt that is not there."""

    def __init__(self, prompt_id: str, prompts: pd.DataFrame, frames: dict[str, pd.DataFrame], logging_policy: str):
        asked = prompts[prompts.prompt_id == str(prompt_id)]
        if asked.empty:
            raise unknown("prompt", prompt_id, prompts.prompt_id)
        prompt = self.prompt = asked.iloc[0]
        own = {name: frame[frame.prompt_id == str(prompt_id)] for name, frame in frames.items()}
        self.responses = with_scores(own).drop(columns="prompt_id")
        logged = self.logged = own["logprobs"][["policy", "draw", "logp", "status", "reason"]].reset_index(drop=True)
        log_weight = logged.logp - logged.draw.map(logged[logged.policy == logging_policy].set_index("draw").logp)
        logged.insert(3, "log_weight", log_weight)
        with np.errstate(over="ignore"):
            logged.insert(4, "weight", np.exp(log_weight))
        answer = [f"Reference answer: {prompt.answer}"] if pd.notna(prompt.get("answer")) else []
        category = "" if pd.isna(prompt.category) else f" ({prompt.category})"
        scores = [str(c) for c in self.responses if str(c).startswith("judge_")]
        columns = ["policy", "draw", "response", *scores, "label", "status"]
        caption = "How likely each policy finds P0's response (nats)"
        super().__init__(
            [f"{prompt.prompt_id}{category}: {prompt.prompt}", *answer],
            report.table(self.responses, columns=columns, text=["response"], caption="Responses of every policy"),
            *([report.table(logged, caption=caption)] * bool(len(logged))),
        )


def with_scores(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The responses of a run's tidy frames with `judge_<name>` for each judge that was asked, and `label`."""
    rows, labels = frames["responses"], frames["labels"].dropna(subset="label").drop_duplicates(KEY)
    for judge, scores in frames["judgments"].groupby("judge", sort=False):
        column = f"judge_{judge}"
        rows = rows.merge(scores.rename(columns={"score": column})[[*KEY, column]], on=KEY, how="left")
    return rows.merge(labels[[*KEY, "label"]], on=KEY, how="left")


def _heavy_table(rows: pd.DataFrame, caption: str) -> report.Table:
    names = {"prompt_id": "prompt", "response": "response", "log_weight": "log-weight", "share": "weight"}
    names |= {"cumulative": "total", "score": "score", "label": "label"}
    columns = {column: name for column, name in names.items() if column in rows}
    formats = {"share": ".1%", "cumulative": ".1%", "log_weight": ".2f"}
    caption = f"{caption}: share of the weight, total of the shares, judge score"
    return report.table(rows, columns=columns, text=["response"], formats=formats, caption=caption)


def heavy_rows(table: Table, policy: str, judge: str, top: int) -> Listing:
    """The judged logged rows with the largest usable weight of a target. Raises ArenaError for a policy that is no
    target, `NothingToShow` where no row has both a weight and a judge score."""
    score = f"judge_{judge}"
    if policy == table.logging_policy:
        raise ArenaError(f"{policy} is the logging policy: its weight is 1 on every row")
    if policy not in table.targets:
        raise unknown("target", policy, table.targets)
    judged = table.logged.assign(log_weight=table.log_weights()[policy]).dropna(subset=[score])
    log_weight = judged.pop("log_weight").to_numpy(float)
    every = weights.heavy_rows(judged, log_weight, judged[score].to_numpy(float), len(judged))
    if every.empty:
        raise NothingToShow(f"no logged response has a judge score and a weight of {policy}: no row carries anything")
    half = int((every.cumulative < 0.5).sum()) + 1
    sentence = (
        f"{half:,} of {len(every):,} judged responses with a weight carry half of that of {policy}; the heaviest alone "
        f"carries {percent(every.share.iloc[0])}."
    )
    first = every.head(top)
    return Listing(first, [sentence], _heavy_table(first, f"The {len(first)} heaviest for {policy}"))


class Examples(Listing):
    """What `run.examples()` answers. `result`: what is shown of it, the content of `examples.json`."""

    def __init__(self, frame: pd.DataFrame, apart: pd.Series, shown: pd.DataFrame):
        self.result = {"apart": float(apart.mean()), "prompts": len(apart), "rows": shown}
        super().__init__(frame, [examples_sentence(self.result)], *examples_tables(shown.to_dict("records")))


def examples(frames: dict[str, pd.DataFrame], prompts: pd.DataFrame, judge: str, top: int) -> Examples:
    """The prompts on whose first answers the policies differ most in the judge's score. Raises `NothingToShow` where no
    prompt has scored answers of two policies."""
    rows = with_scores(frames).rename(columns={f"judge_{judge}": "score"}).reindex(columns=[*KEY, *EXAMPLE[2:]])
    rows = rows[rows.draw == 0].dropna(subset=["score", "response"])
    by_prompt = rows.groupby("prompt_id", sort=False).score
    apart = (by_prompt.max() - by_prompt.min())[by_prompt.size() > 1].sort_values(ascending=False, kind="stable")
    if apart.empty:
        raise NothingToShow("no prompt has scored answers of two policies: there is nothing to set side by side")
    rows = rows.merge(prompts[["prompt_id", "prompt"]], on="prompt_id", how="left")
    rows = rows.set_index("prompt_id").loc[apart.index].reset_index()
    return Examples(rows, apart, rows[rows.prompt_id.isin(apart.index[:top])])


def examples_sentence(found: Mapping[str, Any], size: float = 1.0) -> str:
    """How far scores of answers to a prompt differ, on a judge's scale of `size`."""
    if not found["apart"]:
        return f"The judge scores the policies' answers alike, on each of {found['prompts']:,} prompts."
    shown = len({row["prompt_id"] for row in pd.DataFrame(found["rows"]).to_dict("records")})
    return (
        f"The judge's scores of the policies' answers to a prompt lie {size * found['apart']:.2f} apart on average (of "
        f"{found['prompts']:,} prompts). These are the {shown} prompts where they differ most."
    )


#: Columns of answers that are set side by side.
EXAMPLE = ["prompt", "policy", "response", "score", "label"]


def examples_tables(rows: Iterable[dict[str, Any]]) -> list[report.Table]:
    """Answers side by side, a table for each prompt."""
    by_prompt = pd.DataFrame(list(rows)).groupby("prompt", sort=False)
    return [report.table(own, columns=EXAMPLE[1:], text=["response"], caption=prompt) for prompt, own in by_prompt]


def disagreements(frames: dict[str, pd.DataFrame], prompts: pd.DataFrame, judge: str, top: int) -> Listing:
    """Responses with a judge score and an oracle label, those that differ most first. Raises `NothingToShow` where no
    response has both."""
    both = with_scores(frames).rename(columns={f"judge_{judge}": "score"})
    both = both.reindex(columns=[*KEY, "response", "score", "label"]).dropna(subset=["score", "label"])
    if both.empty:
        raise NothingToShow("no response has both a judge score and an oracle label: the judge is untested")
    of_prompt = [c for c in ("category", "prompt", "answer") if c in prompts]
    both = both.merge(prompts[["prompt_id", *of_prompt]], on="prompt_id", how="left")
    both = both.assign(gap=both.score - both.label)
    order = both.gap.abs().sort_values(ascending=False, kind="stable").index
    rows = both.loc[order, [*KEY, *of_prompt, "response", "score", "label", "gap"]].reset_index(drop=True)

    def measures(part: pd.DataFrame) -> dict[str, Any]:
        auc = diagnostics.judge_auc(part.score.to_numpy(float), part.label.to_numpy(float))
        means = {"responses": len(part), "score": part.score.mean(), "label": part.label.mean(), "AUC": auc}
        return means | {"far off": int((part.gap.abs() > FAR_OFF).sum())}

    per_policy = [{"policy": name, **measures(part)} for name, part in both.groupby("policy", sort=False)]
    high, low = int((rows.gap > FAR_OFF).sum()), int((rows.gap < -FAR_OFF).sum())
    sentence = (
        f"On {len(rows):,} judged responses with a known outcome the judge {judge} is off by "
        f"{rows.gap.abs().mean():.2f} on average, AUC {rounded(measures(rows)['AUC'])} (0.5 is guessing). "
        f"{high + low:,} are off by more than {FAR_OFF:g}: {high:,} scored too high, {low:,} too low."
    )
    columns = ["policy", *(c for c in ("prompt", "answer") if c in of_prompt), "response", "score", "label"]
    caption = f"Where the judge {judge} is furthest from the oracle"
    return Listing(
        rows,
        [sentence],
        report.table(per_policy, caption="By policy: mean score and label, AUC, responses far off"),
        report.table(rows, columns=columns, text=["prompt", "response"], max_rows=top, caption=caption),
    )
