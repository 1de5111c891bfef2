"""Single rows to look at: one prompt across policies, the rows that carry the weight, judge against oracle."""

from __future__ import annotations

import numpy as np
import pandas as pd

from arena10k import attribution, report
from arena10k.errors import NothingToShow, unknown
from arena10k.estimation import diagnostics
from arena10k.explore.view import Rows, View
from arena10k.frames.records import KEY
from arena10k.frames.table import Table
from arena10k.wording import percent

#: A judge that is off by more than this says the opposite of the oracle.
FAR_OFF = 0.5


class PromptView(View):
    """What `run.prompt(id)` answers: `prompt` (a row of `run.prompts`), `responses` with judge scores and labels, and
    `logged`: the log-probs of P0's responses under every policy with their log-weights (nats)."""

    def __init__(self, prompt: pd.Series, responses: pd.DataFrame, logged: pd.DataFrame):
        self.prompt, self.responses, self.logged = prompt, responses, logged
        answer = [f"Reference answer: {prompt.answer}"] if pd.notna(prompt.get("answer")) else []
        category = "" if pd.isna(prompt.category) else f" ({prompt.category})"
        scores = [str(c) for c in responses if str(c).startswith("judge_")]
        columns = ["policy", "draw", "response", *scores, "label", "status"]
        super().__init__(
            [f"{prompt.prompt_id}{category}: {prompt.prompt}", *answer],
            report.table(responses, columns=columns, text=["response"], caption="Responses of every policy"),
            *([report.table(logged, caption="How likely each policy finds P0's response (nats)")] * bool(len(logged))),
        )


def prompt_view(
    prompt_id: str, prompts: pd.DataFrame, frames: dict[str, pd.DataFrame], logging_policy: str
) -> PromptView:
    """One prompt from the frames `responses`, `logprobs`, `judgments` and `labels`.

    Raises
    ------
    ArenaError
        For a prompt that is not there.
    """
    found = prompts[prompts.prompt_id == str(prompt_id)]
    if found.empty:
        raise unknown("prompt", prompt_id, prompts.prompt_id)
    mine = {name: frame[frame.prompt_id == str(prompt_id)] for name, frame in frames.items()}
    responses = mine["responses"].drop(columns="prompt_id")
    for mode, scores in mine["judgments"].groupby("mode", sort=False):
        scored = scores.rename(columns={"score": f"judge_{mode}"})[["policy", "draw", f"judge_{mode}"]]
        responses = responses.merge(scored, on=["policy", "draw"], how="left")
    labels = mine["labels"].dropna(subset=["label"]).drop_duplicates(KEY)[["policy", "draw", "label"]]
    responses = responses.merge(labels, on=["policy", "draw"], how="left")
    logged = mine["logprobs"][["policy", "draw", "logp", "status", "reason"]].reset_index(drop=True)
    base = logged[logged.policy == logging_policy].set_index("draw").logp
    log_weight = logged.logp - logged.draw.map(base)
    logged.insert(3, "log_weight", log_weight)
    with np.errstate(over="ignore"):
        logged.insert(4, "weight", np.exp(log_weight))
    return PromptView(found.iloc[0], responses, logged)


def heavy_table(rows: pd.DataFrame, caption: str) -> report.Table:
    """Heavy rows for a reader."""
    names = {"prompt_id": "prompt", "response": "response", "log_weight": "log-weight", "share": "weight"}
    names |= {"cumulative": "total", "reward": "score", "label": "label"}
    shown = {c: names[c] for c in names if c in rows}
    formats = {"share": ".1%", "cumulative": ".1%", "log_weight": ".2f"}
    told = f"{caption}: share of the weight, total of the shares, judge score"
    return report.table(rows, columns=shown, text=["response"], formats=formats, caption=told)


def heavy_rows(table: Table, policy: str, judge: str, top: int) -> Rows:
    """The judged logged rows with the largest usable weight of a target.

    Raises
    ------
    NothingToShow
        Where no row has both a weight and a judge score.
    """
    judged = table.logged.assign(log_weight=table.log_weights()[policy]).dropna(subset=[f"judge_{judge}"])
    lw = judged.pop("log_weight").to_numpy(float)
    every = attribution.heavy_rows(judged, lw, judged[f"judge_{judge}"].to_numpy(float), len(judged))
    if every.empty:
        raise NothingToShow(f"no logged response has a judge score and a weight of {policy}: no row carries anything")
    half = int((every.cumulative < 0.5).sum()) + 1
    said = (
        f"{half:,} of {len(every):,} judged responses with a weight carry half of that of {policy}; the heaviest alone "
        f"carries {percent(every.share.iloc[0])}."
    )
    first = every.head(top)
    return Rows(first, [said], heavy_table(first, f"The {len(first)} heaviest for {policy}"))


def disagreements(frames: dict[str, pd.DataFrame], prompts: pd.DataFrame, judge: str, top: int) -> Rows:
    """Responses with a judge score and an oracle label, those that differ most first.

    Raises
    ------
    NothingToShow
        Where no response has both.
    """
    scores = frames["judgments"].query("mode == @judge").dropna(subset=["score"])
    labels = frames["labels"].dropna(subset=["label"]).drop_duplicates(KEY)
    both = scores[[*KEY, "score"]].merge(labels[[*KEY, "label"]], on=KEY)
    if both.empty:
        raise NothingToShow("no response has both a judge score and an oracle label: the judge is untested")
    both = both.merge(frames["responses"][[*KEY, "response"]], on=KEY, how="left")
    asked = [c for c in ("category", "prompt", "answer") if c in prompts]
    both = both.merge(prompts[["prompt_id", *asked]], on="prompt_id", how="left")
    both = both.assign(gap=both.score - both.label)
    order = both.gap.abs().sort_values(ascending=False, kind="stable").index
    rows = both.loc[order, [*KEY, *asked, "response", "score", "label", "gap"]].reset_index(drop=True)
    return Rows(
        rows,
        [_agreement(rows, judge)],
        report.table(_by_policy(both), caption="By policy: mean score and label, AUC, responses far off"),
        report.table(
            rows,
            columns=["policy", *(c for c in ("prompt", "answer") if c in asked), "response", "score", "label"],
            text=["prompt", "response"],
            max_rows=top,
            caption=f"Where the judge (mode {judge}) is furthest from the oracle",
        ),
    )


def _agreement(rows: pd.DataFrame, judge: str) -> str:
    high, low = int((rows.gap > FAR_OFF).sum()), int((rows.gap < -FAR_OFF).sum())
    auc = diagnostics.judge_auc(rows.score.to_numpy(float), rows.label.to_numpy(float))
    return (
        f"On {len(rows):,} judged responses with a known outcome the judge (mode {judge}) is off by "
        f"{rows.gap.abs().mean():.2f} on average, AUC {auc:.2f} (.5 is guessing). {high + low:,} are off by more than "
        f"{FAR_OFF:g}: {high:,} scored too high, {low:,} too low."
    )


def _by_policy(both: pd.DataFrame) -> pd.DataFrame:
    told = [
        {
            "policy": policy,
            "responses": len(rows),
            "score": rows.score.mean(),
            "label": rows.label.mean(),
            "AUC": diagnostics.judge_auc(rows.score.to_numpy(float), rows.label.to_numpy(float)),
            "far off": int((rows.gap.abs() > FAR_OFF).sum()),
        }
        for policy, rows in both.groupby("policy", sort=False)
    ]
    return pd.DataFrame(told)
