"""A key goes through the stages that use it and is quoted by the provider: it is in no file, output, command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from arena10k.params.config import load
from arena10k.pipeline import stages
from stub_run import judge_in_one_token, make_params, past_the_prompts
from stub_server import MODEL, Stub, error

CANARY = "sk-canary-8c41d7e2"


def command_lines() -> bytes:
    """The command lines of all processes, as `ps` shows them."""
    out = b""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            out += entry.read_bytes()
        except OSError:  # it has ended
            continue
    return out


def test_a_key_leaves_no_trace(home, monkeypatch, capfd):
    seen = set()

    def fault(body, n):
        seen.add(CANARY.encode() in command_lines())
        if n > 5:  # in the middle of the run, quoting the key as some providers do
            return error(401, f"Incorrect API key provided: {CANARY}.", "invalid_api_key")
        return None

    def judge(body, n):
        seen.add(CANARY.encode() in command_lines())
        return judge_in_one_token(body)

    with Stub(fault) as stub:
        make_params(home, stub.url, n_prompts=4, draws=1, api_key_env="ARENA_CANARY", concurrency=2)
        params = yaml.safe_load((home / "stub.yaml").read_text())
        params["judge"] = {"provider": "stub", "model": MODEL, "case": "{response}:", "ratings": {"1": 1, "0": 0}}
        (home / "stub.yaml").write_text(yaml.safe_dump(params))
        past_the_prompts(load(home / "stub.yaml"))
        monkeypatch.setenv("ARENA_CANARY", CANARY)
        command = [sys.executable, "-m", "arena10k", "report", "--params", str(home / "stub.yaml")]
        refused = subprocess.run(command, capture_output=True, check=False)
        assert refused.returncode == 1
        (line,) = [line for line in refused.stderr.decode().splitlines() if line.startswith("error:")]
        assert line.startswith("error: 02_responses: ")
        assert "http_401: Incorrect API key provided: <ARENA_CANARY>." in line
        assert b"Traceback" not in refused.stderr
        stub.fault = judge
        for stage in ("02_responses", "03_teacher_forcing", "04_judge", "05_data_quality"):
            stages.execute(stage, str(home / "stub.yaml"), None)
        assert stub.keys == {f"Bearer {CANARY}"}
    assert seen == {False}
    files = [p for p in home.rglob("*") if p.is_file()]
    kinds = {p.suffix for p in files}
    assert {".sqlite", ".ipynb", ".html", ".json", ".parquet"} <= kinds
    leaks = [p.name for p in files if CANARY.encode() in p.read_bytes()]
    assert leaks == []
    assert CANARY.encode() not in refused.stdout + refused.stderr
    assert CANARY not in "".join(capfd.readouterr())
