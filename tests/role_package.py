"""A package that takes roles, good and bad, as a third party ships it: a wheel with entry points, installed by pip.

`install` makes a virtual environment that has it beside the reconciler, and returns its interpreter.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SOURCE = '''
import os, time
from dataclasses import replace

from reconciler.drive import BuiltInBuilder
from reconciler.model import ExecutionMode
from reconciler.order import Answer, Verdict
from reconciler.role_protocols import BuiltInPlanner, Planned, ReviewerAnswer, TesterAnswer


class Mine:
    """All four roles, each of which leaves its mark."""

    def plan(self, order):
        texts = [each.text for each in order.checklist]
        selection = tuple(each.id for each in order.plan.stages if each.id != "slow")
        return Planned(run_id=order.plan.run_id, selection=selection, reason=f"{len(texts)} items")

    def build(self, order):
        print("built by Mine:", order.stage)
        found = BuiltInBuilder().build(order)
        return replace(found, summary=f"mine {found.verdict.value}")

    def test(self, order):
        done = [each.id for each in order.records if each.status == "succeeded"]
        return TesterAnswer(run_id=order.plan.run_id, status="passed", reasons=(f"{len(done)} succeeded",))

    def review(self, order):
        decision = "reject" if "reject" in order.plan.labels else "approve"
        return ReviewerAnswer(run_id=order.plan.run_id, decision=decision, reasons=(f"tests {order.tested.status}",))


class Severe(Mine):
    def test(self, order):
        return TesterAnswer(run_id=order.plan.run_id, status="failed", reasons=("never good enough",))

    def review(self, order):
        return ReviewerAnswer(run_id=order.plan.run_id, decision="escalate", reasons=("ask Ann",))


class Raises:
    def plan(self, order):
        raise RuntimeError("no idea")

    build = test = review = plan


class Hangs:
    def plan(self, order):
        while True:
            time.sleep(1)

    build = test = review = plan


class Ends:
    def plan(self, order):
        os._exit(0)

    build = test = review = plan


class Garbage:
    def plan(self, order):
        print("garbage" * 1000)
        return {"decision": "approve", "status": "passed"}

    build = test = review = plan


class Other:
    """Answers for another run."""

    def plan(self, order):
        return Planned(run_id="other-00000000", selection=("s",))

    def test(self, order):
        return TesterAnswer(run_id="other-00000000", status="passed")

    def review(self, order):
        return ReviewerAnswer(run_id="other-00000000", decision="approve")


class Wrong:
    """Answers of the right type that say nothing that can be used."""

    def plan(self, order):
        return Planned(run_id=order.plan.run_id, selection=("nowhere",))

    def build(self, order):
        return Answer(verdict="fine")

    def test(self, order):
        return TesterAnswer(run_id=order.plan.run_id, status="good")

    def review(self, order):
        return ReviewerAnswer(run_id=order.plan.run_id, decision="Approve")


class Huge:
    def test(self, order):
        return TesterAnswer(run_id=order.plan.run_id, status="passed", reasons=("x" * 1000000,))

    def review(self, order):
        return ReviewerAnswer(run_id=order.plan.run_id, decision="approve", reasons=("x" * 1000000,))

    def plan(self, order):
        return Planned(run_id=order.plan.run_id, selection=("s",), reason="x" * 1000000)


class Elsewhere(Mine):
    def plan(self, order):
        return replace(BuiltInPlanner().plan(order), modes={"s": ExecutionMode.CLOUD})
'''
NAMES = ("Mine", "Severe", "Raises", "Hangs", "Ends", "Garbage", "Other", "Wrong", "Huge", "Elsewhere")


def install(place: Path) -> Path:
    """Make a virtual environment at a place in which the package is installed; return its interpreter."""
    return environment(place, _wheel(place))


def environment(place: Path, wheel: Path) -> Path:
    """Make a virtual environment at a place that has a wheel beside the reconciler; return its interpreter."""
    home = place / "environment"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(home)
    python = home / "bin" / "python"
    installing = ("install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel))
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *installing], check=True)
    known = next((home / "lib").glob("python3*")) / "site-packages" / "known.pth"
    known.write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return python


def _wheel(place: Path) -> Path:
    """Write the package as a wheel."""
    points = [f"{each.lower()} = role_package_of_ours:{each}" for each in NAMES]
    points += ["missing = role_package_of_ours:Missing", "methodless = role_package_of_ours:SOURCE_OF_NOTHING"]
    files = {
        "role_package_of_ours.py": SOURCE + "\nSOURCE_OF_NOTHING = 1\n",
        "role_package_of_ours-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: role-package-of-ours\nVersion: 1\n",
        "role_package_of_ours-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "role_package_of_ours-1.dist-info/entry_points.txt": "\n".join(["[reconciler.roles]", *points, ""]),
        "role_package_of_ours-1.dist-info/RECORD": "",
    }
    path = place / "role_package_of_ours-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path
