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
    `logged`: the log-probs of P0's responses under every policy with their log-weights (nats).

    Raises
    ------
    ArenaError
        For a prompt that is not there.
    """

    def __init__(self, prompt_id: str, prompts: pd.DataFrame, frames: dict[str, pd.DataFrame], logging_policy: str):
        asked = prompts[prompts.prompt_id == str(prompt_id)]
        if asked.empty:
            raise unknown("prompt", prompt_id, prompts.prompt_id)
        prompt = self.prompt = asked.iloc[0]
        of_prompt = {name: frame[frame.prompt_id == str(prompt_id)] for name, frame in frames.items()}
        self.responses = _responses(of_prompt)
        self.logged = _weighted(of_prompt["logprobs"], logging_policy)
        answer = [f"Reference answer: {prompt.answer}"] if pd.notna(prompt.get("answer")) else []
        category = "" if pd.isna(prompt.category) else f" ({prompt.category})"
        scores = [str(c) for c in self.responses if str(c).startswith("judge_")]
        columns = ["policy", "draw", "response", *scores, "label", "status"]
        caption = "How likely each policy finds P0's response (nats)"
        super().__init__(
            [f"{prompt.prompt_id}{category}: {prompt.prompt}", *answer],
            report.table(self.responses, columns=columns, text=["response"], caption="Responses of every policy"),
            *([report.table(self.logged, caption=caption)] * bool(len(self.logged))),
        )


def _responses(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    responses = frames["responses"]
    for mode, scores in frames["judgments"].groupby("mode", sort=False):
        column = f"judge_{mode}"
        responses = responses.merge(scores.rename(columns={"score": column})[[*KEY, column]], on=KEY, how="left")
    return responses.merge(_labels(frames), on=KEY, how="left").drop(columns="prompt_id")


def _labels(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return frames["labels"].dropna(subset=["label"]).drop_duplicates(KEY)[[*KEY, "label"]]


def _weighted(logprobs: pd.DataFrame, logging_policy: str) -> pd.DataFrame:
    """Log-probs of one prompt with their log-weights and weights."""
    logged = logprobs[["policy", "draw", "logp", "status", "reason"]].reset_index(drop=True)
    log_weight = logged.logp - logged.draw.map(logged[logged.policy == logging_policy].set_index("draw").logp)
    logged.insert(3, "log_weight", log_weight)
    with np.errstate(over="ignore"):
        logged.insert(4, "weight", np.exp(log_weight))
    return logged


def heavy_table(rows: pd.DataFrame, caption: str) -> report.Table:
    """Heavy rows for a reader."""
    names = {"prompt_id": "prompt", "response": "response", "log_weight": "log-weight", "share": "weight"}
    names |= {"cumulative": "total", "reward": "score", "label": "label"}
    columns = {c: names[c] for c in names if c in rows}
    formats = {"share": ".1%", "cumulative": ".1%", "log_weight": ".2f"}
    caption = f"{caption}: share of the weight, total of the shares, judge score"
    return report.table(rows, columns=columns, text=["response"], formats=formats, caption=caption)


def heavy_rows(table: Table, policy: str, judge: str, top: int) -> Rows:
    """The judged logged rows with the largest usable weight of a target.

    Raises
    ------
    NothingToShow
        Where no row has both a weight and a judge score.
    """
    judged = table.logged.assign(log_weight=table.log_weights()[policy]).dropna(subset=[f"judge_{judge}"])
    log_weight = judged.pop("log_weight").to_numpy(float)
    every = attribution.heavy_rows(judged, log_weight, judged[f"judge_{judge}"].to_numpy(float), len(judged))
    if every.empty:
        raise NothingToShow(f"no logged response has a judge score and a weight of {policy}: no row carries anything")
    half = int((every.cumulative < 0.5).sum()) + 1
    sentence = (
        f"{half:,} of {len(every):,} judged responses with a weight carry half of that of {policy}; the heaviest alone "
        f"carries {percent(every.share.iloc[0])}."
    )
    first = every.head(top)
    return Rows(first, [sentence], heavy_table(first, f"The {len(first)} heaviest for {policy}"))


def disagreements(frames: dict[str, pd.DataFrame], prompts: pd.DataFrame, judge: str, top: int) -> Rows:
    """Responses with a judge score and an oracle label, those that differ most first.

    Raises
    ------
    NothingToShow
        Where no response has both.
    """
    scores = frames["judgments"].query("mode == @judge").dropna(subset=["score"])
    both = scores[[*KEY, "score"]].merge(_labels(frames), on=KEY)
    if both.empty:
        raise NothingToShow("no response has both a judge score and an oracle label: the judge is untested")
    both = both.merge(frames["responses"][[*KEY, "response"]], on=KEY, how="left")
    of_prompt = [c for c in ("category", "prompt", "answer") if c in prompts]
    both = both.merge(prompts[["prompt_id", *of_prompt]], on="prompt_id", how="left")
    both = both.assign(gap=both.score - both.label)
    order = both.gap.abs().sort_values(ascending=False, kind="stable").index
    rows = both.loc[order, [*KEY, *of_prompt, "response", "score", "label", "gap"]].reset_index(drop=True)
    per_policy = [{"policy": name, **_measures(part)} for name, part in both.groupby("policy", sort=False)]
    return Rows(
        rows,
        [_agreement(rows, judge)],
        report.table(per_policy, caption="By policy: mean score and label, AUC, responses far off"),
        report.table(
            rows,
            columns=["policy", *(c for c in ("prompt", "answer") if c in of_prompt), "response", "score", "label"],
            text=["prompt", "response"],
            max_rows=top,
            caption=f"Where the judge (mode {judge}) is furthest from the oracle",
        ),
    )


def _measures(rows: pd.DataFrame) -> dict[str, float]:
    return {
        "responses": len(rows),
        "score": rows.score.mean(),
        "label": rows.label.mean(),
        "AUC": diagnostics.judge_auc(rows.score.to_numpy(float), rows.label.to_numpy(float)),
        "far off": int((rows.gap.abs() > FAR_OFF).sum()),
    }


def _agreement(rows: pd.DataFrame, judge: str) -> str:
    high, low = int((rows.gap > FAR_OFF).sum()), int((rows.gap < -FAR_OFF).sum())
    return (
        f"On {len(rows):,} judged responses with a known outcome the judge (mode {judge}) is off by "
        f"{rows.gap.abs().mean():.2f} on average, AUC {_measures(rows)['AUC']:.2f} (.5 is guessing). {high + low:,} "
        f"are off by more than {FAR_OFF:g}: {high:,} scored too high, {low:,} too low."
    )
