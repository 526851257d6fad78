"""Every example on docs/work-line.md runs, and says what the page shows.

The page is read from top to bottom in one empty directory, as a newcomer would. What its fences
are called tells what is done with them:

    python    a file; its first line is a comment with its name
    pycon     typed into one interpreter, which goes on from block to block
    console   typed into a shell; with `&` at its end a command runs on until the end of the page
"""

import doctest
import os
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from tests.processes import ROOT, free_port, wait_until

PAGE = ROOT / "docs" / "work-line.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
SAYS_WHAT_IS_SHOWN = doctest.ELLIPSIS


def test_every_example_on_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with Reader(tmp_path) as reader:
        text = reader.with_own_port(PAGE.read_text("utf-8"))
        for found in FENCE.finditer(text):
            line = text.count("\n", 0, found.start()) + 2
            getattr(reader, found[1])(found[2], line)


def test_the_page_is_found_from_the_readme():
    assert "(docs/work-line.md)" in (ROOT / "README.md").read_text("utf-8")


class Reader:
    """Somebody who does what the page says, and compares."""

    def __init__(self, directory):
        self.directory = directory
        self.names = {"__name__": "__main__"}
        self.port = free_port()
        self.running = []
        self.written = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait(20)
        for name in self.written:
            sys.modules.pop(name, None)

    def with_own_port(self, text):
        """The page names the port that the server has by itself; here it may be taken."""
        return text.replace("11300", str(self.port))

    def python(self, block, line):
        name = re.match(r"# (\S+\.py)\n", block)
        assert name, f"{PAGE.name}:{line}: a file needs a first line with its name"
        (self.directory / name[1]).write_text(block)
        self.written.append(name[1].removesuffix(".py"))

    def pycon(self, block, line):
        test = doctest.DocTestParser().get_doctest(block, self.names, PAGE.name, PAGE.name, line)
        told: list[str] = []
        runner = doctest.DocTestRunner(optionflags=SAYS_WHAT_IS_SHOWN, verbose=False)
        runner.run(test, out=told.append, clear_globs=False)
        self.names = test.globs
        if runner.failures:
            pytest.fail("".join(told), pytrace=False)

    def console(self, block, line):
        for at, command, shown in self.commands(block, line):
            words = shlex.split(command)
            assert words[:2] == ["python", "app.py"], f"{PAGE.name}:{at}: {command}"
            words[:2] = [sys.executable, str(ROOT / "app.py")]
            if words[-1] == "&":
                self.start(words[:-1])
                continue
            done = subprocess.run(
                words,
                env=self.variables(),
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=60,
            )
            same = doctest.OutputChecker().check_output(shown, done.stdout, SAYS_WHAT_IS_SHOWN)
            assert same, f"{PAGE.name}:{at}: {command}\n{done.stdout}"

    def commands(self, block, line):
        """Each with the line it stands on, and what is shown below it."""
        for part in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.M):
            yield line + block.count("\n", 0, part.start()), part[1], part[2]

    def start(self, words):
        process = subprocess.Popen(words, env=self.variables())
        self.running.append(process)
        if str(self.port) in words:
            wait_until("the server", 20, lambda: process.poll() is not None or self.answers())
        assert process.poll() is None, f"{words} ended with {process.returncode}"

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def variables(self):
        return {name: value for name, value in os.environ.items() if "NOWSERVING" not in name}
