"""Why a published number is what it is: the attribution of one policy, with the rows that carry it."""

from __future__ import annotations

from typing import Any

from arena10k import attribution, plots, report
from arena10k.attribution import Investigation
from arena10k.explore.looking import heavy_table
from arena10k.explore.selection import Slice
from arena10k.explore.view import View
from arena10k.wording import level


class Explanation(View):
    """What `run.explain(policy)` answers.

    `row`: the policy's row of `anomaly.json`, with `published`, `trusted`, `gap`, `main_cause` and `anomaly` (None: not
    testable). `parts`: what the gap is made of, by cause, with intervals. `heavy`: the logged rows that carry most of
    the published weight. `sentence`: the verdict. `investigation`: of all policies, for the library's functions.
    """

    def __init__(self, policy: str, inv: Investigation, part: Slice, top: int = 10):
        found = inv.findings[policy]
        self.policy, self.investigation = policy, inv
        self.row: dict[str, Any] = attribution.anomaly_row(found, inv)
        self.sentence: str = self.row["sentence"]
        self.parts = attribution.parts_frame(self.row)
        score = f"judge_{inv.judge_mode}"
        judged = part.table.logged.dropna(subset=[score])
        self.heavy = attribution.heavy_rows(judged, found.log_weight, judged[score].to_numpy(float), top)
        said = [*part.sentences, self.sentence]
        if inv.flip is not None and policy in (inv.flip.winner, inv.flip.rival):
            said.append(attribution.flip_sentence(inv))
        if policy == inv.focus.policy:
            said.append(attribution.mass_sentence(inv))
        known = found.trusted is not None
        tables: list[report.Table | report.Drawn] = []
        if known:
            intervals = f"{level(found.confidence)} intervals"
            caption = f"What the gap between published and trusted value is made of (Shapley values, {intervals})"
            tables.append(report.table(self.parts, caption=caption))
        if known and found.anomaly:
            tables.append(plots.waterfall(self.row))
        if len(self.heavy) and policy != inv.logging_policy:
            tables.append(heavy_table(self.heavy, f"The heaviest of {len(judged):,} judged responses for {policy}"))
        super().__init__(said, *tables, figures=self._drawn(known))

    def _drawn(self, known: bool) -> dict[str, Any]:
        weights = {self.policy: self.investigation.findings[self.policy].log_weight}
        figures: dict[str, Any] = {}
        if known:
            figures["waterfall"] = lambda: plots.waterfall(self.row)
        if len(self.heavy):
            figures["overlap"] = lambda: plots.overlap(weights)
            game = self.investigation.findings[self.policy].game
            band = self.row["trusted_ci"]
            paths = attribution.shrinkage_paths(game.published_log_weight, game.prep.logged.judge)
            figures["shrinkage"] = lambda: plots.shrinkage(self.policy, paths, band)
        return figures
