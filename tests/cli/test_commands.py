"""The command `svd`: which programs there are, and by what name they are known."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from svd.cli import commands
from svd.cli.commands import COMMANDS, Command

ROOT = Path(__file__).parents[2]


def svd(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "svd", *words], cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_help_names_every_command_and_imports_next_to_nothing():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "svd", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0 and done.stdout.startswith("usage: svd COMMAND [OPTIONS]\n")
    for name, command in COMMANDS.items():
        assert f"  {name} " in done.stdout and command.summary in done.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert not imported & {"mindspore", "numpy", "pandas", "jsonargparse", "cv2", "PIL", "svd_tools"}
    assert svd().stdout == done.stdout


def test_what_is_no_command():
    for words in (["upscale"], ["--image=x.png"], ["digits"], ["digits", "dance", "--help"]):
        done = svd(*words)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.splitlines()[-1] == f"svd: error: there is no command {words[0]!r}; svd --help lists them"


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_programs(name):
    module = ROOT / (COMMANDS[name].module.replace(".", "/") + ".py")
    functions = {node.name for node in ast.parse(module.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert {"main", "build_parser"} <= functions


def test_every_file_that_is_run_starts_a_command():
    """Those in the root, and every file directly in svd_tools; the rooms below it are no programs."""
    started = {}
    for path in (ROOT / "image_to_video.py", ROOT / "train.py", *(ROOT / "svd_tools").glob("[!_]*.py")):
        lines = path.read_text().splitlines()
        guard = next(place for place, line in enumerate(lines) if line.startswith('if __name__ == "__main__":'))
        assert lines[guard + 1] == "    from svd.cli import start" and lines[guard + 2] == "", path
        assert not any(line.startswith(("import ", "from ")) for line in lines[:guard] if "__future__" not in line), (
            path
        )
        started[path] = lines[guard + 3].strip().removeprefix('start("').removesuffix('")')
    assert set(started.values()) == {name for name in COMMANDS if " " not in name}
    for path, name in started.items():
        assert path.stem == name.replace("-", "_")


@pytest.fixture
def called(monkeypatch):
    """What a command that only notes how it was called has been given."""
    calls = []

    class Noted:
        @staticmethod
        def main(argv, program):
            calls.append((argv, program))
            return 3

    monkeypatch.setattr(commands, "COMMANDS", {"a": Command("a", "does a", "hint"), "b c": Command("b", "does b")})
    monkeypatch.setattr(commands, "import_module", lambda name: Noted if name in ("a", "b") else import_module(name))
    monkeypatch.setattr(commands, "begin", lambda *given: calls.append(given))
    return calls


def test_a_command_is_called_by_the_name_under_which_it_was_started(called, monkeypatch):
    for argv, expected in (
        (["svd", "a", "--x", "b"], [("svd a", "hint"), (["--x", "b"], "svd a")]),
        (["svd", "b", "c"], [("svd b c", ""), ([], "svd b c")]),
    ):
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as end:
            commands.main()
        assert end.value.code == 3 and called == expected
        called.clear()
    monkeypatch.setattr(sys, "argv", ["/bin/svd-a", "--x"])
    with pytest.raises(SystemExit):
        commands.start("a")
    assert called == [("svd-a", "hint"), (None, "svd-a")]  # its arguments are the process's
