"""What the README, the guide and its pages show is done here: their files become runs, and their commands are typed.

A block of commands is one shell script, run from its first line to its last; each line must succeed. What cannot be
typed as it stands has a line in `INSTEAD`, with the reason.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import preloaded
from tests.scratch import ENVIRONMENT, Hub, Scratch
from tests.test_docs import GUIDE, GUIDES, README, examples, fences, name_of

DOCUMENTS = [README, *GUIDES]

ENDS = {
    "0001-diagnostics": "succeeded",
    "0003-after-the-freeze": "absent",
    "0004-mistake": "absent",
    "0006-release": "absent",
    "0008-deploy": "succeeded",
    "0009-nightly": "absent",
    "0010-green": "succeeded",
    "0031-train": "absent",
    "0042-train": "starting",
    "team.0007-nightly": "absent",
}
"""How the requests of the documents end: `absent` is one that is suspended until a day in the future, comes after one
that is, waits for its time or for a host that offers what it needs, or was cancelled before it began; `starting` one
that waits for an engine which is not here."""

INSTEAD: dict[str, tuple[str, str]] = {
    "reconciler metrics --ref v1.4 --format json": ("reconciler metrics --ref HEAD --format json", "nothing is tagged"),
    "reconciler metrics --format prometheus --output /var/lib/node_exporter/textfile/reconciler.prom": (
        "reconciler metrics --format prometheus --output runs.prom", "no exporter is installed here"
    ),
    "RECONCILER_CAPABILITIES=gpu,cuda-12 reconciler watch": (
        "RECONCILER_CAPABILITIES=gpu,cuda-12 reconciler reconcile", "it stays; test_watch.py lets it"
    ),
    "reconciler init": ("reconciler init --yes", "it asks, and nobody is here to answer"),
    'reconciler approve 0001-release --reason "changelog checked"': (
        "reconciler approve --help", "no run of the documents waits at a gate; test_approvals.py approves one"
    ),
    'reconciler reject 0001-release --stage ship --reason "the changelog is empty"': (
        "reconciler reject --help", "no run of the documents waits at a gate; test_approvals.py rejects one"
    ),
    "reconciler import .": ("reconciler import --help", "the Node orchestrator left nothing here; test_import.py"),
    "reconciler import . --write": ("reconciler import --help", "as above"),
    "reconciler eval": ("reconciler eval evals/python.eval.yaml", "Node and Go are not everywhere; test_eval.py"),
    "reconciler eval --format junit > build/eval.xml": ("reconciler eval --help", "as above"),
    "reconciler review 0001-diagnostics": (
        "reconciler review --help", "no model is here; test_review.py asks an agent"
    ),
    "reconciler service status": ("reconciler service status || test $? = 1", "nobody watches here, and it says so"),
    'git add runs.d && git commit -m "runs: ask for a release"': (
        "echo 'rerun: 1' >> runs.d/0001-diagnostics.yaml && git commit -am asked", "nobody has written a request here"
    ),
    "python3 -m pip install 'gitops-reconciler[serve]'": ("true", "it is installed here, from this checkout"),
    "python3 -m pip install 'gitops-reconciler[agents]'": ("true", "it is installed here, from this checkout"),
    "reconciler mcp --http 127.0.0.1:8765": ("reconciler mcp --help", "it stays; test_mcp.py asks one"),
    "python3 -m pip install 'gitops-reconciler[patterns]'": ("mkdir -p build", "it is installed here"),
    "reconciler serve": ("reconciler serve --help", "it stays; test_serve.py asks one"),
    "reconciler control serve --data control.sqlite": (
        "reconciler control serve --help", "it stays; test_control.py asks one"
    ),
    "reconciler watch": ("reconciler watch --help", "it stays; test_watch.py ends one"),
    "RECONCILER_FORGE_TOKEN=$GITHUB_TOKEN reconciler ci --timeout 50m": (
        "reconciler ci --help", "this is no CI; tests/forges runs it against one"
    ),
    'eval "$(reconciler completion bash)"': (
        "bash -c 'eval \"$(reconciler completion bash)\"'", "the script is for bash, and this is sh"
    ),
    'eval "$(reconciler completion zsh)"': (
        "reconciler completion zsh | grep -q compdef", "the script is for zsh, which is not everywhere"
    ),
}  # fmt: skip
"""What is typed instead of a line, and why."""

WORLD = {
    "Makefile": "build:\n\t@echo built\ntest:\n\t@echo 'tested with $(PYTHON)'\n",
    "src/x.py": "x = 1\n",
    "pyproject.toml": "[project]\nname = 'x'\n",
    "tests/run": "#!/bin/sh\necho all tests passed\n",
    "tests/run-slow": "#!/bin/sh\necho all slow tests passed\n",
    "tasks/0001-demo.md": "# Demo\n\n- [ ] Tests green <!-- item: 0001-demo/tests-green -->\n",
}
"""What the pipelines of the documents build, lint and test."""


def script(place: Path, name: str, text: str) -> None:
    place.mkdir(exist_ok=True)
    (place / name).write_text(f"#!/bin/sh\n{text}\n")
    (place / name).chmod(0o755)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return a PATH on which the programs are that the documents use."""
    script(tmp_path / "bin", "ruff", "echo no problems")
    for agent in ("codex", "claude"):
        script(tmp_path / "bin", agent, "echo 1.0.0")
    preloaded.program(tmp_path / "bin")
    return f"{tmp_path}/bin:{ENVIRONMENT['PATH']}"


def furnish(scratch: Scratch, *documents: Path) -> None:
    """Commit what documents show, and what their pipelines need. Of two examples of one file the first counts."""
    for name, text in WORLD.items():
        scratch.write(name, text).chmod(0o755)
    for place, rejected, data in reversed([each for document in documents for each in examples(document)]):
        if not rejected:
            scratch.write(place, data)
    scratch.commit()


def phases(scratch: Scratch) -> dict[str, str]:
    """Return how the runs of a repository are, by the name of their request."""
    told = json.loads(scratch.run("status", "--all", "--format", "json").stdout)
    return {each["name"]: each["phase"] for each in told["runs"]}


def asks(document: Path) -> bool:
    """Return whether a document shows a request."""
    return any(place.startswith("runs.d/") and ".approval." not in place for place, *_ in examples(document))


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if asks(each)], ids=name_of)
def test_the_requests_of_a_document_end_as_it_says(scratch: Scratch, path: str, document: Path) -> None:
    furnish(scratch, document)
    # What waits for an engine that is not here waits for ever.
    waits = any(ENDS.get(Path(place).stem) == "starting" for place, *_ in examples(document))
    done = scratch.run("reconcile", "--wait", "--timeout", "5s" if waits else "80s", PATH=path)
    said = phases(scratch)
    assert said, done.stderr
    assert said == {name: ENDS.get(name, "say in ENDS how it ends") for name in said}, done.stderr


def test_the_run_of_the_documents_has_the_id_they_say(scratch: Scratch, path: str) -> None:
    furnish(scratch, GUIDE)
    scratch.run("reconcile", "--wait", PATH=path)
    told = json.loads(scratch.run("status", "0001-diagnostics", "--format", "json").stdout)
    (run_id,) = (each["run_id"] for each in told["runs"])
    assert run_id == "0001-diagnostics-b6a89a6d"
    assert run_id in README.read_text() and run_id in GUIDE.read_text()
    manifest: dict[str, Any] = json.loads(scratch.git("show", f"HEAD:.runs/0001-demo/cli/{run_id}/manifest.json"))
    assert manifest["status"] == "succeeded"


# ------------------------------------------------------------------------------------------------ commands

OURS = re.compile(r"(^|[\s(])reconciler [a-z]", re.MULTILINE)


def blocks() -> Iterator[Any]:
    """Yield every block of commands in which ours are."""
    for document in DOCUMENTS:
        for number, text in enumerate(fences(document, "sh"), start=1):
            if OURS.search(re.sub(r"#.*", "", text)):
                yield pytest.param(document, text, id=f"{name_of(document)}-{number}")


def typed(text: str) -> str:
    """Return a block as it is typed here."""
    lines = (re.sub(r"\s+#.*", "", line) for line in text.splitlines())
    return "\n".join(INSTEAD.get(line, (line, ""))[0] for line in lines)


@pytest.mark.parametrize(("document", "text"), list(blocks()))
def test_a_block_of_commands_can_be_typed(hub: Hub, path: str, document: Path, text: str) -> None:
    begins_anew = text.startswith("cd my-project")
    clone = hub.clone("my-project")
    if not begins_anew:
        furnish(clone, document, GUIDE)
        clone.push()
        clone.run("reconcile", "--wait", "--timeout", "80s", PATH=path)
        clone.git("pull", "-q")
    home = hub.place / "home"
    (home / ".config/fish/completions").mkdir(parents=True)
    done = subprocess.run(
        ["sh", "-e", "-x", "-c", typed(text)], cwd=hub.place if begins_anew else clone.path,
        env=ENVIRONMENT | {"PATH": path, "HOME": str(home)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("line", INSTEAD)
def test_what_is_not_typed_stands_in_a_document(line: str) -> None:
    shown = (
        re.sub(r"\s+#.*", "", each) for *_, text in (each.values for each in blocks()) for each in text.splitlines()
    )
    assert line in set(shown)
    assert INSTEAD[line][1], "there is a reason"
