"""The door: from arrays (`study`) to estimates, headlines, a ranking and plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from arena10k.analysis import DEFAULT, Analysis
from arena10k.estimation import compare, planning
from arena10k.estimation.checked import ONLY_JUDGE
from arena10k.estimation.context import LOGPROBS_ASKED, PolicyContext, context
from arena10k.estimation.data import PolicyData
from arena10k.estimation.headline import headline, headline_row, known_row
from arena10k.estimation.scale import NUMBERS, UNIT, Scale
from arena10k.estimation.score import ESTIMATORS
from arena10k.estimation.verdicts import BY_DEFINITION, NOT_ASKED, estimate_row

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was found of all policies. `rows` of estimates.json; `contexts`, with the diagnostics, by (policy,
    judge). Its frames are of the judge `judge`, values on the label's `scale`."""

    rows: list[dict[str, Any]]
    contexts: dict[tuple[str, str], PolicyContext]
    analysis: Analysis = DEFAULT
    judge: str = ONLY_JUDGE
    scale: Scale = UNIT

    def of_judge(self, judge: str) -> dict[str, PolicyContext]:
        """By policy the contexts of one judge, as `compare.ranking` and `compare.contrasts` take them."""
        return {policy: ctx for (policy, name), ctx in self.contexts.items() if name == judge}

    @cached_property
    def estimates(self) -> pd.DataFrame:
        """policy, estimator, value, se, ci_low, ci_high, verdict, reasons and the diagnostics beside them."""
        rows = [{k: v for k, v in r.items() if k != "judge"} for r in self.rows if r["judge"] == self.judge]
        return self._frame(rows, list(rows[0]) if rows else ())

    @cached_property
    def headline(self) -> pd.DataFrame:
        """The estimate that speaks for each policy that has one; index policy."""
        columns = ("policy", "estimator", "value", "se", "ci_low", "ci_high", "verdict", "reasons")
        rows = [{"policy": p} | row for p, ctx in self.of_judge(self.judge).items() if (row := headline(ctx))]
        return self._frame(rows, columns).set_index("policy")

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """a, b, difference (a - b), ci_low, ci_high, significant: every pair of policies with a headline."""
        return self._frame(self._pairs, compare.Contrast).rename(columns={"low": "ci_low", "high": "ci_high"})

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """policy, rank, worst_rank and the headline's value and interval, best first; equal ranks are ties."""
        return self._frame(compare.ranking(self.of_judge(self.judge), self._pairs), compare.Ranked)

    @cached_property
    def breakdown(self) -> pd.DataFrame:
        """better, worse, difference; judge_error and unseen_mass that would turn their order round."""
        return self._frame(compare.breakdowns(self.of_judge(self.judge)), compare.Breakdown)

    @cached_property
    def result(self) -> dict[str, Any]:
        """What pages and `estimates.json` say of it, on the label's scale: `rows` of every judge; `ranking`,
        `contrasts` and `breakdown` as lists of rows; `policies`, how many draws and labels of its own each has;
        `judge`, `belief`, and the `logging_policy` where there is one."""
        contexts = self.of_judge(self.judge)
        found: dict[str, list[Any]] = {"ranking": compare.ranking(contexts, self._pairs), "contrasts": self._pairs}
        found |= {"breakdown": compare.breakdowns(contexts), "rows": self.rows}
        counts = [
            {"policy": policy, "draws": len(ctx.data.fresh), "labels": int(ctx.data.fresh.labelled.sum())}
            for policy, ctx in contexts.items()
        ]
        return {
            "judge": self.judge,
            "belief": self.analysis.belief,
            "logging_policy": next((policy for policy, ctx in contexts.items() if ctx.is_logging), None),
            "policies": counts,
            **{name: self._scaled(rows) for name, rows in found.items()},
        }

    def plan(self, widths: Iterable[float] | None = None) -> pd.DataFrame:
        """How many oracle labels of each policy's own draws an interval of each width takes, those that are there
        included; with assurance (see `planning.labels_needed`). `widths` on the label's scale."""
        import pandas as pd

        wanted = [self.analysis.width] if widths is None else [width / self.scale.size for width in widths]
        plans = {
            policy: planning.plan(ctx.pilot, wanted, confidence=self.analysis.confidence)
            for policy, ctx in self.of_judge(self.judge).items()
        }
        frame = pd.DataFrame([{"policy": policy} | row for policy, rows in plans.items() for row in rows])
        return frame.drop(columns="cost").assign(width=frame["width"] * self.scale.size)

    @cached_property
    def _pairs(self) -> list[compare.Contrast]:
        return compare.contrasts(self.of_judge(self.judge))

    def _scaled(self, rows: Iterable[Any]) -> list[dict[str, Any]]:
        return [self.scale.row(row if isinstance(row, Mapping) else dataclasses.asdict(row)) for row in rows]

    def _frame(self, rows: Iterable[Any], columns: Any) -> pd.DataFrame:
        """A frame of dictionaries or of dataclasses on the label's scale, with its columns where there are no rows."""
        import pandas as pd

        names = [f.name for f in dataclasses.fields(columns)] if dataclasses.is_dataclass(columns) else list(columns)
        frame = pd.DataFrame(self._scaled(rows), columns=names)
        return frame.astype({name: float for name in NUMBERS if name in frame})

    def __repr__(self) -> str:
        lines = []
        for policy, row in self.headline.reindex(dict.fromkeys(self.estimates["policy"])).iterrows():
            if not isinstance(row["estimator"], str):
                lines.append(f"{policy}: no accepted estimate ({', '.join(self._lacking(policy))})")
                continue
            if row["verdict"] == BY_DEFINITION:
                lines.append(f"{policy}: {row['value']:g} by definition")
                continue
            why = f" ({', '.join(row['reasons'])})" if row["reasons"] else ""
            lines.append(
                f"{policy}: {row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}] "
                f"{row['verdict']}{why}, by {row['estimator']}"
            )
        return "\n".join(lines)

    def _lacking(self, policy: str) -> list[str]:
        """The fewest reasons for which an estimate of the policy, which has no accepted one, is none."""
        rows = [r for r in self.rows if (r["policy"], r["judge"]) == (policy, self.judge)]
        values = [r for r in rows if not ESTIMATORS[r["estimator"]].judge_scale] or rows
        chosen = min(values, key=lambda r: (r["verdict"] == NOT_ASKED, len(r["reasons"])))
        return [str(reason) for reason in chosen["reasons"]]

    def _repr_html_(self) -> str:
        columns = ["value", "ci_low", "ci_high", "verdict", "estimator", "reasons"]
        return str(self.headline[columns].to_html(float_format="{:.3f}".format))


def study(
    policies: Mapping[str, Mapping[str, PolicyData]],
    analysis: Analysis = DEFAULT,
    n_quarantined: Mapping[str, int] | None = None,
    facts: Mapping[str, Iterable[str]] | None = None,
    estimators: Iterable[str] | None = None,
    clones: Iterable[str] = (),
    judge: str = ONLY_JUDGE,
) -> Evaluation:
    """All `estimators` for every policy and judge, `{policy: {judge: PolicyData}}`, among them the logging
    policy (log-weights 0); numbers in rows are floats, ints or None, never NaN.

    `n_quarantined`: logged rows quarantined per policy; `facts`: by policy those that arrays do not show
    (`context.WRONG_WEIGHTS`); `clones`: policies identical to the logging policy, which measure the noise floor of the
    log-probs; `judge`: that of headlines.
    """
    names, clones = list(ESTIMATORS if estimators is None else estimators), set(clones)
    rows, contexts = [], {}
    for policy, judges in policies.items():
        quarantined = int((n_quarantined or {}).get(policy, 0))
        known = [*(facts or {}).get(policy, ()), *[LOGPROBS_ASKED] * (quarantined > 0)]
        for name, data in judges.items():
            ctx = context(data, analysis, known, policy=policy, judge=name, clone=policy in clones)
            own = [] if data.known is None else [known_row(data.known)]
            for estimator in names if data.known is None else ():
                own.append(estimate_row(ctx, ESTIMATORS[estimator]))
                if ESTIMATORS[estimator].belief == "weights":  # no other estimator is made of these
                    ctx.prep.memo.pop(estimator, None)
            rows += [{"policy": policy, "judge": name, "n_quarantined": quarantined, **row} for row in own]
            # What estimators shared takes more memory than all that is asked for later.
            ctx.prep.memo.clear()
            if estimators is None:
                ctx.prep.memo["headline"] = headline_row(own, analysis.belief, ctx.is_logging)
            if name != judge:
                ctx.prep.forget()
            contexts[policy, name] = ctx
    return Evaluation(rows, contexts, analysis, judge)
