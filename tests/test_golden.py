"""Results of the committed sample are the frozen ones, whatever is rewritten; `make golden` freezes them anew."""

from __future__ import annotations

import pytest

import golden


@pytest.mark.parametrize("name", golden.RESULTS)
def test_a_result_of_the_sample_is_as_it_was_frozen(name):
    changed = golden.changes(golden.frozen(name), golden.computed(name))
    assert not changed, "\n".join(golden.told(changed))


def test_what_changed_is_found_and_told(monkeypatch, tmp_path):
    def result(value, **more):
        row = {"policy": "a", "value": value, "ci": [0.1, None], "reasons": ["low_ess"], "sentence": f"It is {value}."}
        return golden.rows({"created": "today", "n": 3, "rows": [row | more]})

    old = result(0.25, all={"verdict": "REPORT"})
    assert old == {
        "all": {"n": 3},
        "rows a": {"value": 0.25, "ci": [0.1, None], "reasons": ["low_ess"], "all.verdict": "REPORT"},
    }
    assert golden.changes(old, result(0.25 + 1e-12, all={"verdict": "REPORT"})) == []
    changed = golden.changes(old, result(0.26, all={"verdict": "REFUSE"}, reasons=[]))
    assert golden.told(changed) == [
        "rows a: value 0.25 -> 0.26",
        'rows a: reasons ["low_ess"] -> []',
        'rows a: all.verdict "REPORT" -> "REFUSE"',
    ]
    assert golden.told(golden.changes(old, {"all": {"n": 3}}))[0] == "rows a: value 0.25 -> null"
    monkeypatch.setattr(golden, "MOST_LINES", 1)
    assert golden.told(changed)[0] == "rows: value in 1 rows, such as rows a 0.25 -> 0.26"
    monkeypatch.setattr(golden, "FOLDER", tmp_path / "new")
    golden.write("x", old)
    assert golden.frozen("x") == old
    assert len((tmp_path / "new" / "x.json").read_text().splitlines()) == len(old) + 2


def test_rows_of_one_name_are_an_error():
    with pytest.raises(ValueError, match="two rows are named 'rows a'"):
        golden.rows({"rows": [{"policy": "a", "n": 1}, {"policy": "a", "n": 2}]})
