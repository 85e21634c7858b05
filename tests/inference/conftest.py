"""The key that the models of these tests need."""

import inference_world
import pytest


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MODEL_KEY", inference_world.KEY)
