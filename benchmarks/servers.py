"""What real servers do with an experiment of twenty prompts: vLLM (CPU), llama.cpp's server, LiteLLM in front of vLLM.

    make servers                (installs vLLM and llama.cpp's server first, several gigabytes, into build/servers)
    python benchmarks/servers.py --vllm PYTHON --llama PYTHON --litellm PYTHON --weights FOLDER

Each option names an interpreter that has the server; what is not named is not run. FOLDER has the embedded model as
safetensors, made where it is not there, which vLLM gets with a generation_config.json that samples in its own way.
Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from arena10k import paths
from arena10k.audit import checks
from arena10k.collection import generate, judge, pilot, sampler, teacher_forcing
from arena10k.collection.collect import collect
from arena10k.collection.jobs import LOGPROBS, RESPONSES, contexts, judging
from arena10k.collection.store import Store
from arena10k.errors import ArenaError
from arena10k.frames.table import build
from arena10k.inputs import prompts
from arena10k.local_server.model import source
from arena10k.params import config

MODEL, PROMPTS, KILLED_AFTER = "smollm2", 20, 20
OWN_SAMPLING = {"do_sample": True, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1, "eos_token_id": 2}
HELPFUL = "You are a helpful assistant."
SYSTEM = {"p0": HELPFUL, "pi_clone": HELPFUL, "pi_terse": "Answer in one word.", "pi_odd": "You are a pirate."}
WHO: dict[str, Any] = {"provider": "server", "model": MODEL}
JUDGES: dict[str, dict[str, Any]] = {
    "logprobs": config.contents(paths.source_root() / "params" / "local.yaml")["judge"] | {"min_mass": 0.05},
    "schema": {"case": "Question: {prompt}\nAnswer: {response}", "form": "chat", "samples": 2},
}
TO_SAFETENSORS = """
import os, sys
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
(folder, file), out = os.path.split(sys.argv[1]), sys.argv[2]
read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype="float32")
vars(read.config).pop("quantization_config", None)
plain = LlamaForCausalLM(read.config)
plain.load_state_dict(read.state_dict(), strict=False)
plain.float().save_pretrained(out)
AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(out)
"""
LLAMA = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.model_alias = sys.argv[1], int(sys.argv[3]), [sys.argv[2]]
params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 16384, 8, 2
server = xllamacpp.Server(params)
time.sleep(86400)
"""


@contextlib.contextmanager
def running(name: str, command: Callable[[str], list[str]], folder: Path) -> Iterator[str]:
    """A server for the length of the block; yields its base URL. It and all it started are killed in the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "2", "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    log, line = folder / f"{name}.log", command(str(port))
    with log.open("w") as out:
        process = subprocess.Popen(line, stdout=out, stderr=out, env=environment, start_new_session=True, cwd=folder)
    url, direct = f"http://127.0.0.1:{port}/v1", urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        for second in range(301):
            with contextlib.suppress(OSError), direct.open(f"{url}/models", timeout=5):
                break
            if process.poll() is not None or second == 300:
                sys.exit(f"{name} ended, or does not answer:\n{log.read_text()[-3000:]}")
            time.sleep(1)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Experiment:
    """The four policies on one provider: what is collected of them, and what came of it."""

    def __init__(self, file: Path):
        self.params = config.load(file)
        self.file, (self.frame, _) = file, prompts.load(self.params)
        prompts.write(self.params, self.frame)
        self.store = Store.open(paths.store_file(self.params.run)).using(contexts(self.params).values())

    @classmethod
    def of(cls, run: str, url: str, judged: str = "", **provider: Any) -> Experiment:
        """One with these keys of its provider; `judged`: of the logging policy alone, by one of `JUDGES`."""
        said: dict[str, Any] = {"run": run, "prompts": {"source": "builtin", "max_prompts": PROMPTS}}
        said["providers"] = {"server": {"base_url": url, "concurrency": 8, "timeout_seconds": 300.0, **provider}}
        said["policies"] = {name: WHO | {"system": system, "max_tokens": 16} for name, system in SYSTEM.items()}
        if judged:
            said |= {"judge": JUDGES[judged] | WHO, "policies": {"p0": said["policies"]["p0"]}}
        file = paths.home() / f"{run}{judged}.yaml"
        file.write_text(yaml.safe_dump(said))
        return cls(file)

    def collect(self, what: str, first: bool = False) -> str:
        """Empty where all was asked, else why not. `first`: the first of it alone; `pilot`: of everything."""
        tasks = {
            "responses": partial(generate.tasks, self.params, self.frame),
            "scores": partial(teacher_forcing.tasks, self.params, self.store),
            "ratings": partial(judge.tasks, self.params, self.frame, self.store),
        }
        try:
            if what == "pilot":
                pilot.run(self.params, self.store, self.frame)
            else:
                collect(self.params, self.store, tasks[what], what, pilot=first)
        except ArenaError as error:
            print(error, file=sys.stderr)
            return str(error)
        return ""

    def counted(self, *jobs: str) -> str:
        """`80 of 80`, and why others are none."""
        codes = Counter(row["code"] or "ok" for job in jobs for row in self.store.rows(job))
        failed = [f"{n} {code}" for code, n in codes.most_common() if code != "ok"]
        return ", ".join([f"{codes['ok']} of {codes.total()}", *failed])

    def sampler(self) -> str:
        """How many policies are suspected, of how many it is settled that they should not be, and of what."""
        found = [one for one in sampler.audits(self.params, self.store).values() if one]
        suspected = Counter(one.best for one in found if one.mismatch)
        cleared = sum(one.settled and not one.mismatch for one in found)
        told = f"{suspected.total()} of {len(found)} suspected, {cleared} cleared"
        return ", ".join([told, *(f"{n} as by {best}" for best, n in suspected.most_common())])

    def scored(self) -> dict[str, str]:
        """Echo scores, against generation and of the clone: the largest differences, nats per response."""
        self.collect("scores")
        out = {"scores": self.counted(LOGPROBS)}
        if any(row["status"] == "ok" for row in self.store.rows(LOGPROBS)):
            table = build(self.params, self.frame, self.store)
            apart, clone = checks.self_consistency(table).abs(), abs(table.log_weights()["pi_clone"])
            told = f"{apart.max():.2g} at most, {(apart < 1e-3).sum()} of {len(apart)} under 0.001 nats"
            out |= {"against generation": told, "clone's log-weights": f"{clone[clone == clone].max():.2g} at most"}
        return out

    def killed(self) -> str:
        """Collect in a process of its own, kill it, go on here: what was stored stays, the rest is asked once."""
        process = subprocess.Popen([sys.executable, __file__, "--collect", self.file])
        while process.poll() is None and len(list(self.store.rows(RESPONSES))) < KILLED_AFTER:
            time.sleep(0.05)
        process.kill()
        code, before = process.wait(), {row["request_hash"]: row for row in self.store.rows(RESPONSES)}
        stopped, after = self.collect("responses"), {row["request_hash"]: row for row in self.store.rows(RESPONSES)}
        kept, again = sum(after.get(key) == row for key, row in before.items()), len(self.store.attempts(RESPONSES))
        told = f"exit {code} after {len(before)}, {kept} kept, {len(after) - len(before)} asked then, {again} twice"
        return stopped or told


def measured(tag: str, server: str, url: str) -> dict[str, str]:
    """Everything of one server, in the order of the table; `server` is what the params call it."""
    echo, ids = {"echo_logprobs": True}, {"token_ids": True, "echo_logprobs": True}
    own = Experiment.of(f"{tag}_own", url)
    out = {"pilot, as the server comes": own.collect("pilot").partition(": say ")[0] or "goes on"}
    own.collect("responses")
    out |= {"chat, as the server comes": own.counted(RESPONSES), "sampler, as the server comes": own.sampler()}
    main = Experiment.of(f"{tag}_ids", url, server=server, capabilities=ids)
    if main.collect("responses", first=True):
        out["token ids"] = main.counted(RESPONSES)
        main, ids = Experiment.of(f"{tag}_chat", url, server=server), {}
    out |= {"kill -9, resume": main.killed(), "chat": main.counted(RESPONSES), "sampler": main.sampler()}
    if ids:
        out |= {f"echo by ids: {key}": value for key, value in main.scored().items()}
    by_text = Experiment.of(f"{tag}_text", url, server=server, chat_template="chatml", capabilities=echo)
    by_text.collect("responses")
    out |= {"text, rendered here": by_text.counted(RESPONSES), "sampler of text": by_text.sampler()}
    out |= {f"echo by text: {key}": value for key, value in by_text.scored().items()}
    for form in JUDGES:
        rated = Experiment.of(main.params.run, url, form, server=server, capabilities=ids | {"json_schema": True})
        rated.collect("ratings")
        out[f"judge by {form}"] = rated.counted(*judging(rated.params))
    return out


def vllm(python: str, weights: Path, folder: Path) -> Callable[[str], list[str]]:
    """The command that serves `weights`, made where they are not there, with sampling of its own."""
    if not (weights / "config.json").is_file():
        subprocess.run([python, "-c", TO_SAFETENSORS, source(), weights], check=True)
    (served := folder / "weights").mkdir()
    for file in (file for file in weights.iterdir() if file.name != "generation_config.json"):
        (served / file.name).symlink_to(file)
    (served / "generation_config.json").write_text(json.dumps(OWN_SAMPLING))
    command = ["nice", python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(served)]
    command += ["--served-model-name", MODEL, "--enforce-eager", "--dtype", "float32", "--max-model-len", "2048"]
    return lambda port: [*command, "--max-num-seqs", "16", "--port", port]


def litellm(python: str, url: str, folder: Path) -> Callable[[str], list[str]]:
    """The command of a proxy in front of the server at `url`."""
    to = {"model": f"hosted_vllm/{MODEL}", "api_base": url, "api_key": "none"}
    said: dict[str, Any] = {"general_settings": {"dangerously_permit_weak_or_unset_master_key": True}}
    said["model_list"] = [{"model_name": MODEL, "litellm_params": to}]
    (folder / "litellm.yaml").write_text(yaml.safe_dump(said))
    program = str(Path(python).parent / "litellm")
    return lambda port: ["nice", program, "--config", "litellm.yaml", "--host", "127.0.0.1", "--port", port]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # Servers are started in a folder of their own. Not resolved: what a venv's python links to has no packages.
    for name in ("vllm", "llama", "litellm", "weights", "collect"):  # the last is for its own use
        parser.add_argument(f"--{name}", type=os.path.abspath)
    args = parser.parse_args()
    if args.collect:
        sys.exit(Experiment(Path(args.collect)).collect("responses"))
    found: dict[str, dict[str, str]] = {}

    def measure(name: str, server: str, url: str) -> None:
        found[name] = measured(name, server, url)
        print(name, *(f"  {what:40} {result}" for what, result in found[name].items()), sep="\n", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        folder, os.environ["ARENA10K_HOME"] = Path(temporary), temporary
        if args.vllm:
            with running("vllm", vllm(args.vllm, Path(args.weights), folder), folder) as url:
                measure("vllm", "vllm", url)
                if args.litellm:
                    with running("litellm", litellm(args.litellm, url, folder), folder) as proxy:
                        measure("litellm", "vllm", proxy)
        if args.llama:
            llama = ["nice", args.llama, "-c", LLAMA, str(source()), MODEL]
            with running("llama", lambda port: [*llama, port], folder) as url:
                measure("llama", "llama.cpp", url)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
