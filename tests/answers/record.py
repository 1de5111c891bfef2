"""Record the answers of a server that runs: python tests/answers/record.py BASE_URL MODEL FILE.

The questions are those of the recorded files. Of entries that FILE holds already the `expected` and what goes with them
stay; a new one has none, and its test fails until it is written.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import httpx2

USER = {"role": "user", "content": "Name a colour. \U0001f642"}
CHAT = [{"role": "system", "content": "You are a helpful assistant."}, USER]
RATE = [{"role": "user", "content": 'Rate this from 0 to 10. Answer with JSON only: {"rating": n}'}]
SCHEMA = {"type": "object", "properties": {"rating": {"type": "integer"}}, "required": ["rating"]}
FORM = {"type": "json_schema", "json_schema": {"name": "rating", "schema": SCHEMA | {"additionalProperties": False}}}
TURN = f"<|im_start|>user\n{USER['content']}<|im_end|>\n<|im_start|>assistant\n"
SAMPLED = {"max_tokens": 12, "temperature": 1, "seed": 1}
ECHO = {"max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
#: What is asked, where, with what; too long a request is not kept.
QUESTIONS = {
    "models": ("/models", None),
    "chat": ("/chat/completions", {"messages": CHAT, "logprobs": True, "return_token_ids": True, **SAMPLED}),
    "chat_json": ("/chat/completions", {"messages": RATE, "max_tokens": 16, "temperature": 0, "response_format": FORM}),
    "echo_ids": ("/completions", ECHO),
    "text": ("/completions", {"prompt": TURN, "logprobs": 1, "stop": ["<|im_end|>"], **SAMPLED}),
    "echo_text": ("/completions", {"prompt": f"{TURN}Blue, of course. \U0001f642<|im_end|>", **ECHO}),
    "unknown_model": ("/completions", {"model": "nope", "prompt": "a", "max_tokens": 1}),
    "too_long": ("/chat/completions", {"messages": [{"role": "user", "content": "word " * 200_000}], "max_tokens": 1}),
    "bad_field": ("/chat/completions", {"messages": CHAT, "max_tokens": 12, "temperature": 9}),
}  # fmt: skip


def ids_of(answer: object) -> tuple[list[int], int]:
    """Token ids to score, those of the chat where it gives them, and how many at their end are the response."""
    choice = answer["choices"][0] if isinstance(answer, dict) and answer.get("choices") else {}
    if choice.get("token_ids") and (prompt := answer.get("prompt_token_ids") or choice.get("prompt_token_ids")):
        return prompt + choice["token_ids"], len(choice["token_ids"])
    return [1, 4093, 198, 31487, 28, 2], 3


def main(base_url: str, model: str, name: str) -> None:
    file, answers = Path(name), {}
    before = json.loads(file.read_text()) if file.is_file() else {"source": f"recorded from {base_url}", "answers": []}
    known = {entry["what"]: entry for entry in before["answers"] if not entry.get("case")}
    headers = {"Authorization": f"Bearer {os.environ.get('API_KEY', 'none')}"}
    entries = []
    with httpx2.Client(base_url=base_url.rstrip("/"), headers=headers, timeout=120) as client:
        for what, (path, asked) in QUESTIONS.items():
            body, more = {"model": model} | asked if asked else None, {}
            if what == "echo_ids":
                body["prompt"], more["response_ids"] = ids_of(answers["chat"])
            said = client.post(path, json=body) if body else client.get(path)
            answers[what] = said.json() if "json" in said.headers.get("content-type", "") else said.text
            new = {"what": what, "path": path, "request": None if what == "too_long" else body} | more
            new |= {"status": said.status_code, "answer": answers[what]}
            kept = {key: value for key, value in known.get(what, {"expected": None}).items() if key not in new}
            entries.append(new | kept)
    entries += [entry for entry in before["answers"] if entry.get("case") or entry["what"] not in QUESTIONS]
    rows = ",\n".join(json.dumps(entry) for entry in entries)
    file.write_text(f'{{"source": {json.dumps(before["source"])}, "answers": [\n{rows}\n]}}\n')


if __name__ == "__main__":
    main(*sys.argv[1:])
