"""Words for the tests of the git tools: the tools as methods, and git as a person runs it."""

from __future__ import annotations

import asyncio
import os
import subprocess

import pytest

from interlock.executors.git import bindings
from interlock.model.errors import ToolError


class Git:
    """The tools as methods: `git.status()`, and `git.plain("commit", ...)` for git as a person runs it."""

    def __init__(self, runner, workspace, context, **options):
        self.runner, self.workspace, self.context = runner, workspace, context
        self.bindings = {binding.tool.name: binding for binding in bindings(runner, **{"environment": {}, **options})}
        self.root = workspace.root

    def __getattr__(self, name):
        binding = self.bindings[f"git.{name}"]

        def call(**parameters):
            output = asyncio.run(binding.function(parameters, self.context))
            assert set(output) == set(binding.tool.returns["required"])
            return output

        return call

    def plain(self, *arguments, cwd=None, stdin=None):
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Human",
            "GIT_AUTHOR_EMAIL": "human@example.org",
            "GIT_COMMITTER_NAME": "Human",
            "GIT_COMMITTER_EMAIL": "human@example.org",
        }
        done = subprocess.run(
            ["git", *arguments], cwd=cwd or self.root, env=environment, input=stdin, capture_output=True, check=True
        )
        return done.stdout.decode("utf-8", "surrogateescape").strip()


def refused(call, **parameters):
    with pytest.raises(ToolError) as caught:
        call(**parameters)
    return caught.value
