"""A measured run in a real shell: Ctrl-Z stops the command, `fg` continues it, Ctrl-C ends it, as without Interlock."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time

import pytest

PROGRAM = f"{sys.executable} -c 'from interlock.surfaces.cli.main import main; main()'"


class Shell:
    """An interactive bash in a terminal of its own."""

    def __init__(self, root, env) -> None:
        self.seen = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(root)
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], {**env, "PS1": "PROMPT ", "TERM": "dumb"})
        self.wait("PROMPT ")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait(self, text: str, seconds: float = 30) -> str:
        """Wait until the text is printed; what was printed until then."""
        until = time.monotonic() + seconds
        while text.encode() not in self.seen:
            assert time.monotonic() < until, self.seen
            if select.select([self.fd], [], [], 0.1)[0]:
                self.seen += os.read(self.fd, 4096)
        before, found, self.seen = self.seen.partition(text.encode())
        return (before + found).decode()

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("profile", "recorder"), [("none", "none"), ("ns", "notify")])
def test_a_command_is_a_job_of_the_shell(project, profile, recorder):
    shell = Shell(project.root, project.env)
    try:
        script = "echo begun; n=0; while [ ! -e go ]; do sleep 0.05; done; echo over"
        shell.type(f"{PROGRAM} exec --profile {profile} --recorder {recorder} -- sh -c '{script}'\n")
        shell.wait("\nbegun")
        shell.type("\x1a")
        shell.wait("Stopped")
        shell.wait("PROMPT ")
        (project.root / "go").touch()
        shell.type("jobs\n")
        assert "over" not in shell.wait("PROMPT ").replace("echo over", ""), (
            "it is stopped, and not only in the background"
        )
        shell.type("fg\n")
        shell.wait("\nover")
        assert "exit code 0" in shell.wait("PROMPT ")
        shell.type(f"{PROGRAM} exec --profile {profile} -- sh -c 'echo waiting; exec sleep 60'\n")
        shell.wait("\nwaiting")
        shell.type("\x03")
        assert "ended by SIGINT" in shell.wait("PROMPT ")
        shell.type("echo code=$?\n")
        shell.wait("\ncode=130")
    finally:
        shell.close()
