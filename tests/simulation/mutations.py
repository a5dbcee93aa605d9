"""Break the code on purpose, one breakage at a time, and see whether scenarios or simulator notice.

    python -m tests.simulation.mutations            # all of them, a few minutes
    python -m tests.simulation.mutations lease      # those whose name holds a word

A breakage is a text of ours that is replaced in a copy of the package. It is caught when the scenarios fail or a
seeded history breaks a promise. One that nothing catches ends this with 1: then a test is missing, or the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROCESSES = 2
ROUNDS = (
    ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/scenarios/test_decisions.py::test_the_pass_decides",
     "tests/scenarios/test_silence.py", "tests/unit/test_manifest.py"],
    ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/contract/test_remote.py"],
    ["-m", "tests.simulation", "--seeds", "0:300", "-j", "1", "--no-shrink"],
    ["-m", "tests.simulation", "--waits", "--seeds", "0:450", "-j", "1", "--no-shrink"],
    ["-m", "tests.simulation", "--engine", "--seeds", "0:300", "-j", "1", "--no-shrink"],
    ["-m", "tests.simulation", "--seeds", "300:3000", "-j", "1", "--no-shrink"],
)  # fmt: skip
"""What may notice a breakage, the quickest first."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One breakage: what it stands for, and which text of which file becomes another."""

    name: str
    file: str
    old: str
    new: str


MUTATIONS = (
    Mutation(
        "only the first attempt is claimed",
        "apply.py",
        "        plan = _frozen(world, action.task_id, action.run_id, claim)\n        _record_claim(world, directory, claim)\n",
        "        plan = _frozen(world, action.task_id, action.run_id, claim)\n",
    ),
    Mutation(
        "the worker is spawned before its claim is recorded",
        "apply.py",
        "        _record_claim(world, directory, claim)\n"
        "        if action.outcome is not None:\n"
        '            _write_end(world, directory, claim.number, action.outcome, f"{action.outcome.value}: {action.reason}")\n'
        '            return f"{plan.run_id}: {action.outcome.value} ({action.reason})"\n'
        "    _spawn(world, directory, plan, claim.number)\n",
        "        if action.outcome is not None:\n"
        "            _record_claim(world, directory, claim)\n"
        '            _write_end(world, directory, claim.number, action.outcome, f"{action.outcome.value}: {action.reason}")\n'
        '            return f"{plan.run_id}: {action.outcome.value} ({action.reason})"\n'
        "    _spawn(world, directory, plan, claim.number)\n"
        "    with rundir.holding(directory):\n"
        "        _record_claim(world, directory, claim)\n",
    ),
    Mutation(
        "silence is measured by timestamps of the wall clock",
        "hearing.py",
        "        return max(0.0, asked.monotonic_s - heard.at.monotonic_s)\n",
        "        from datetime import datetime\n"
        "        return (datetime.fromisoformat(asked.at) - datetime.fromisoformat(heard.at.at)).total_seconds()\n",
    ),
    Mutation(
        "silence goes on while the remote does not answer",
        "hearing.py",
        "        heard, asked = self.memory.heard.get(ref), self.asked or self.world.now()\n",
        "        heard, asked = self.memory.heard.get(ref), self.world.now()\n",
    ),
    Mutation(
        "a push names no value that it replaces",
        "remote.py",
        "        leases = [f\"--force-with-lease={each.ref}:{each.old or ''}\" for each in updates]\n",
        '        leases = ["--force"]\n',
    ),
    Mutation(
        "the branch is pushed without its claims",
        "publish.py",
        "    updates = (branch, *ended, *farewell)\n",
        "    updates = (branch,)\n",
    ),
    Mutation(
        "claims are deleted before the evidence is there",
        "publish.py",
        "        rejected = remote.push(updates, atomic=True)\n",
        "        rejected = remote.push(updates[1:], atomic=False) or remote.push([branch], atomic=False)\n",
    ),
    Mutation(
        "there is no second look after a claim",
        "claims.py",
        "            and not seen.actual.proves(each.run_id, each.claim.number)\n",
        "",
    ),
    Mutation(
        "whoever pushed believes to have the claim",
        "claims.py",
        "            if (oid := ours[claim_ref(each.run_id)]) is not None and refs.get(claim_ref(each.run_id)) == oid\n",
        "            if (oid := ours[claim_ref(each.run_id)]) is not None\n",
    ),
    Mutation(
        "the lease is renewed for longer than others wait",
        "claims.py",
        "RENEW_SHARE = 2 / 3\n",
        "RENEW_SHARE = 2.0\n",
    ),
    Mutation(
        "the lease is renewed from the end of a push",
        "claims.py",
        "            self._renew_lease(began)\n",
        "            self._renew_lease(replace(self.world.now(), monotonic_s=self.world.now().monotonic_s + 20))\n",
    ),
    Mutation(
        "a run is taken over from a host that lives",
        "elsewhere.py",
        "    if not limits.online or not (held.ours or held.silent):\n",
        "    if not limits.online or not (held.ours or held.silent_s > 3):\n",
    ),
    Mutation(
        "a run is published by whoever has records of it",
        "elsewhere.py",
        "    return held is not None and held.ours and held.claim.number == run.number\n",
        "    return True\n",
    ),
    Mutation(
        "a run that another host has is not let go",
        "elsewhere.py",
        "    if held is not None and not held.ours:\n",
        "    if held is not None and held.claim.number < 0:\n",
    ),
    Mutation(
        "nothing is fenced",
        "loop.py",
        "        fence(self.world, actions)\n",
        "",
    ),
    Mutation(
        "a late worker does not look for a newer claim",
        "simulation/worker.py",
        "        if handle is None or directory.newest() != number or self._over():\n",
        "        if handle is None:\n",
    ),
    Mutation(
        "the content of a new record is not synced",
        "disk.py",
        "            self.create(staging, data, sync=True, mode=mode)\n            self.link(staging, path)\n",
        "            self.create(staging, data, sync=False, mode=mode)\n            self.link(staging, path)\n",
    ),
    Mutation(
        "the name of a new record is not synced",
        "disk.py",
        "            self.unlink(staging)\n        self.sync_directory(path.parent)\n        return True\n",
        "            self.unlink(staging)\n        return True\n",
    ),
    Mutation(
        "the mark of a run is not synced",
        "rundir.py",
        "sync=bool(plan))",
        "sync=False)",
    ),
    Mutation(
        "items are ticked by runs that failed",
        "publish.py",
        '    succeeded = [each for each in documents if each["status"] == "succeeded"]\n',
        "    succeeded = list(documents)\n",
    ),
    Mutation(
        "stages are matched by position",
        "manifest.py",
        "            if digests.get(record.id) == record.digest and not _succeeded(earlier):\n",
        "            if not _succeeded(earlier):\n",
    ),
    Mutation(
        "evidence of an attempt proves the next one",
        "state.py",
        "        return found is not None and found.attempt >= number\n",
        "        return found is not None\n",
    ),
    Mutation(
        "attempts are not bounded",
        "diff.py",
        "    if used >= run.attempts_max:\n",
        "    if used >= 1000 * run.attempts_max:\n",
    ),
    Mutation(
        "everybody in a queue is first",
        "queueing.py",
        "    if ahead is not None:\n",
        "    if ahead == '':\n",
    ),
    Mutation(
        "a run that ended leaves its group before its evidence is there",
        "queueing.py",
        "if scene.shared or phase not in ENDED else ()",
        "if phase not in ENDED else ()",
    ),
    Mutation(
        "a run that failed lets others begin",
        "queueing.py",
        "    if evidence.status == Status.SUCCEEDED:\n",
        "    if evidence.status.ended:\n",
    ),
    Mutation(
        "what the reconciler writes asks for another run",
        "recurring.py",
        "        if not inputs.may_hold_checklists(path, checklists):\n",
        "        if checklists:\n",
    ),
    Mutation(
        "a gate opens without a decision",
        "approve.py",
        "    if not counted:\n",
        "    if not counted and now_at == '':\n",
    ),
    Mutation(
        "a decision counts for any plan",
        "approve.py",
        "    if decision.plan is not None and decision.plan != case.plan_digest:\n",
        "    if decision.plan == '':\n",
    ),
    Mutation(
        "the series is not renewed after a decision",
        "apply.py",
        "    series = number if action.decisions or action.children else series\n",
        "",
    ),
    Mutation(
        "a parent counts a child that has only waiting evidence",
        "waiting.py",
        "if proof is not None and proof.waiting is None}\n",
        "if proof is not None}\n",
    ),
    Mutation(
        "a run that goes on is published as one that waits",
        "diff.py",
        "(awaited_runs(run) or run.run_id in resumed))\n",
        "awaited_runs(run))\n",
    ),
    Mutation(
        "nested runs of a parent that ends are launched",
        "diff.py",
        "    asked = _without_orphans(desired, repairs)\n",
        "    asked = desired\n",
    ),
    Mutation(
        "a run is evidence with the records and without the logs",
        "publish.py",
        '        files[command["log_path"]] = log\n',
        "",
    ),
    Mutation(
        "an engine is not told which order an attempt works on",
        "afar.py",
        ', "--ref", ref, "--order", heard.order)',
        ', "--ref", ref)',
    ),
    Mutation(
        "an attempt that its engine ended is over before its last word was asked for",
        "afar.py",
        "        return asked is not None and (\n",
        "        return asked is None or bool(heard.ended) or (\n",
    ),
    Mutation(
        "nobody waits until an engine has ended what it was told to",
        "afar.py",
        """        if seen[handle].standing in (Standing.QUEUED, Standing.RUNNING):
            return f"executor '{executor}' was told to end attempt {handle}"
        # Its last word may be on its way; without a run here nobody wants to hear it.
        waits = run is not None and run.afar is not None and run.afar.submitted
        return f"attempt {handle} has ended at executor '{executor}'; its last word is looked for" if waits else ""
""",
        '        return ""\n',
    ),
    Mutation(
        "an attempt is handed over before its claim and its key are durable",
        "afar.py",
        "            self._make_durable(run)\n",
        "",
    ),
    Mutation(
        "the ref of an attempt stays until its run is proven",
        "diff.py",
        "run.number <= number and run.is_afar",
        "run.is_afar",
    ),
    Mutation(
        "all attempts of a run have one name at an engine",
        "afar.py",
        "handle_of(self._repository(placement.executor), run_id, number))\n",
        "handle_of(self._repository(placement.executor), run_id, 1))\n",
    ),
    Mutation(
        "a courier executes what another one has begun",
        "simulation/courier.py",
        "        if there != self.order:\n            self._find_it_begun(voice)\n            return\n",
        "",
    ),
    Mutation(
        "nobody guards a push of many deletions",
        "lent.py",
        '[ "$asked" = "$(cat "$here/asked")" ] && : > "$here/passed"',
        ': > "$here/passed"',
    ),
)


def main() -> int:
    words = sys.argv[1:]
    chosen = [each for each in MUTATIONS if all(word in each.name for word in words)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        missed = [each.name for each, caught in zip(chosen, pool.map(catch, chosen), strict=True) if not caught]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught" + "".join(f"\nMISSED: {each}" for each in missed))
    return 1 if missed else 0


def catch(mutation: Mutation) -> bool:
    """Apply a breakage to a copy, and return whether it is noticed; print by what."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="reconciler-mutation-") as name:
        place = Path(name)
        for each in ("reconciler", "schemas", "tests"):
            shutil.copytree(ROOT / each, place / each, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", place)
        broken = place / "reconciler" / mutation.file
        text = broken.read_text(encoding="utf-8")
        if text.count(mutation.old) != 1:
            sys.exit(f"'{mutation.name}': {mutation.file} does not hold the text exactly once; mend this list")
        broken.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
        by = _noticed(place)
    print(f"{by or 'NOTHING':>10}  {mutation.name} ({time.monotonic() - began:.0f} s)", flush=True)
    return bool(by)


def _noticed(place: Path) -> str:
    """Return what fails in a copy: "scenarios", "seed <n>", or "" for nothing."""
    environment = {**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    for words in ROUNDS:
        told = subprocess.run(
            [sys.executable, *words], cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        if told.returncode:
            seeds = (" ".join(line.split()[:2]) for line in told.stdout.splitlines() if line.startswith("seed"))
            return "scenarios" if "pytest" in words else next(seeds, "simulator")
    return ""


if __name__ == "__main__":
    sys.exit(main())
