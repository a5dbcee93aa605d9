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
     "tests/scenarios/test_silence.py", "tests/unit/test_manifest.py", "tests/unit/test_notes.py",
     "tests/unit/test_lease.py", "tests/unit/test_pacing.py", "tests/unit/test_looks.py"],
    ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/contract/test_remote.py",
     "tests/contract/test_afar.py", "tests/contract/test_at_once.py", "tests/contract/test_given_back.py",
     "tests/unit/test_ordering.py"],
    ["-m", "tests.simulation", "--seeds", "0:300", "-j", "1", "--brief"],
    ["-m", "tests.simulation", "--waits", "--seeds", "0:450", "-j", "1", "--brief"],
    ["-m", "tests.simulation", "--engine", "--seeds", "0:300", "-j", "1", "--brief"],
    ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/simulation/test_simulation.py", "-k", "went_wrong_once"],
    ["-m", "tests.simulation", "--seeds", "300:3000", "-j", "1", "--brief"],
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
        "decisions and ends of nested runs are believed that a ref tells of",
        "notes.py",
        "    return replace(note, claims=tuple(map(_without_proofs, note.claims))) if proves else note\n",
        "    return note\n",
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
        " and not _is_settled(each, seen)",
        "",
    ),
    Mutation(
        "that an attempt waits elsewhere leaves it to be executed here",
        "claims.py",
        "    return seen.actual.proves(*about) if wanted.executes else seen.actual.settles(*about)\n",
        "    return seen.actual.settles(*about)\n",
    ),
    Mutation(
        "whoever pushed believes to have the claim",
        "claims.py",
        "if refs.get(claim_ref(each.run_id)) == ours[claim_ref(each.run_id)]}",
        "}",
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
        "            renew_lease(self.world.disk, self._lease_path(), began, self.world.lease_now(), seconds)\n",
        "            now = self.world.lease_now()\n"
        "            now = replace(now, monotonic_s=now.monotonic_s + 20)\n"
        "            renew_lease(self.world.disk, self._lease_path(), now, now, seconds)\n",
    ),
    Mutation(
        "what ended here and waits elsewhere is put away again and again",
        "diff.py",
        "    if actual.waits_later(run):\n",
        "    if False:\n",
    ),
    Mutation(
        "a nested run goes on in the pass in which its parent is left",
        "diff.py",
        "if not (isinstance(each, Resume | TakeOver) and each.run_id in lost)]",
        "]",
    ),
    Mutation(
        "what could not be given back is given back by a later pass",
        "claims.py",
        "if run_id not in used], {}\n",
        "if run_id not in used], self.made\n",
    ),
    Mutation(
        "a lease that ran out is renewed",
        "lease.py",
        " and now.monotonic_s < before.until_s:",
        ":",
    ),
    Mutation(
        "a worker goes by any lease of its host",
        "lease.py",
        " or found.since_s != self.since_s",
        "",
    ),
    Mutation(
        "a run that waits here and was ended elsewhere waits on",
        "elsewhere.py",
        "and actual.is_waiting(run.run_id, run.number)",
        "and actual.proves(run.run_id, run.number)",
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
        "what is said in the name of a host was said by it",
        "namesakes.py",
        "if each not in said.oids) if said",
        "if not each) if said",
    ),
    Mutation(
        "what a host says is not noted before it is pushed",
        "claims.py",
        "            namesakes.note(self.world, self.observer.hearing, oids)\n",
        "            pass\n",
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
        "afar/handover.py",
        ', "--ref", ref, "--order", order)',
        ', "--ref", ref)',
    ),
    Mutation(
        "an attempt that its engine ended is over before its last word was asked for",
        "afar/attempts.py",
        "        return asked is not None and (\n",
        "        return asked is None or bool(heard.ended) or (\n",
    ),
    Mutation(
        "an old look ends what was handed over since",
        "afar/sightings.py",
        "        return _state(look.known.get(handle)) == _state(self.memory.heard(executor, handle))\n",
        "        return True\n",
    ),
    Mutation(
        "an attempt that was absent and spoke then is gone",
        "afar/words.py",
        "                heard = replace(heard, sighting=None, ended=None)\n",
        "                pass\n",
    ),
    Mutation(
        "nobody waits until an engine has ended what it was told to",
        "afar/ends.py",
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
        "afar/orders.py",
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
        "afar/attempts.py",
        "handle_of(self.engines.repository(placement.executor), run_id, number))\n",
        "handle_of(self.engines.repository(placement.executor), run_id, 1))\n",
    ),
    Mutation(
        "an attempt that its engine does not execute is silent",
        "phases.py",
        "    return executed and afar.silent_s > afar.silent_max_s\n",
        "    return afar.silent_s > afar.silent_max_s\n",
    ),
    Mutation(
        "what was ended here for its silence was cancelled by its engine",
        "afar/ends.py",
        "                self._note_given_up(executor, handle, run)\n",
        "",
    ),
    Mutation(
        "an end that came home is replaced by what comes later",
        "executors/ordering.py",
        "    if _has_ended(directory, name):\n        return Brought(attempt=attempt)\n",
        "",
    ),
    Mutation(
        "what was done at an engine counts for later attempts",
        "apply.py",
        "    return number if apart else otherwise\n",
        "    return otherwise\n",
    ),
    Mutation(
        "an attempt whose key cannot be asked for now is over",
        "afar/attempts.py",
        "            is_final=heard.submitted and placed.handle not in self.words.unheard and self._is_final(heard, hearing),\n",
        "            is_final=heard.submitted and self._is_final(heard, hearing),\n",
    ),
    Mutation(
        "an attempt that comes back is left alone",
        "afar/attempts.py",
        "            self.ends.look_for_parted()\n",
        "",
    ),
    Mutation(
        "an attempt that another host goes on with is told to end",
        "afar/memory.py",
        "if heard.submitted and not heard.over and run is not None and _is_past(run, number_in(handle)):",
        "if heard.submitted and not heard.over:",
    ),
    Mutation(
        "whoever claims too many at one moment gives all of it back",
        "claims.py",
        "            if not self._is_first_of_several(stands, seen, known):\n                break\n",
        "            break\n",
    ),
    Mutation(
        "a courier executes what another one has begun",
        "simulation/courier.py",
        "        if there != self.order:\n            self._find_it_begun(voice)\n            return\n",
        "",
    ),
    Mutation(
        "an engine is asked after the refs are",
        "afar/attempts.py",
        ("        if acts:\n            self.sightings.observe(under_way.values())\n        self.words.listen()\n"),
        ("        self.words.listen()\n        if acts:\n            self.sightings.observe(under_way.values())\n"),
    ),
    Mutation(
        "an engine that does not answer knows of nothing",
        "afar/sightings.py",
        "            self.engines.note_silent(executor, error)\n\n    def _take_answers",
        (
            "            self.note(executor, {each: Sighting(standing=Standing.ABSENT) for each in handles})\n\n"
            "    def _take_answers"
        ),
    ),
    Mutation(
        "what an engine said before an attempt was handed over counts afterwards",
        "afar/words.py",
        "            if not heard.submitted:\n",
        "            if not heard.executor:\n",
    ),
    Mutation(
        "an attempt that was over once stays over",
        "afar/sightings.py",
        "if gone else None,\n",
        "if gone else before.ended,\n",
    ),
    Mutation(
        "an attempt that was never handed over is lost",
        "afar/attempts.py",
        "is_final=heard.submitted and placed.handle",
        "is_final=placed.handle",
    ),
    Mutation(
        "who lost an attempt before it was handed over hands it over all the same",
        "afar/handover.py",
        "(known.ours, known.claim.number, known.oid) == (True, run.number, there.get(refs[run.run_id]))",
        "True",
    ),
    Mutation(
        "who heard meanwhile that a claim is gone takes it for one that stands",
        "afar/handover.py",
        "(known := held.get(run.run_id)) is not None\n            and (known.ours, known.claim.number, known.oid) == (True, run.number, ",
        "(known := held.get(run.run_id)) is None\n            or (known.ours, known.claim.number, known.oid) == (True, run.number, ",
    ),
    Mutation(
        "no attempt at an engine is ended",
        "afar/ends.py",
        "    return known is not None and (known.is_final or bool(known.turned))\n",
        "    return known is not None\n",
    ),
    Mutation(
        "who cannot ask an engine takes for gone what it has",
        "afar/ends.py",
        "            return f\"attempt {handle} may live: {self.engines.unusable(executor) or 'its engine does not answer'}\"\n",
        '            return ""\n',
    ),
    Mutation(
        "who turns an attempt away now will never take it",
        "afar/handover.py",
        "            if no.settled:\n",
        "            if no.reason:\n",
    ),
    Mutation(
        "a word counts whoever said it",
        "executors/ordering.py",
        "return word if comes_with_it and is_true(word, key) else None",
        "return word if comes_with_it else None",
    ),
    Mutation(
        "a courier goes on from whatever somebody else said",
        "executors/voice.py",
        "            if now is None or (now != self.there and now not in self._said):\n",
        "            if now is None:\n",
    ),
    Mutation(
        "a word moves its ref from wherever that is",
        "executors/voice.py",
        "old=self.there, new=oid",
        "old=self.remote.look([self.ref]).get(self.ref), new=oid",
    ),
    Mutation(
        "an attempt is executed before its first word is heard",
        "simulation/courier.py",
        ("        self._patiently(lambda: voice.say(self._with_card({})))\n        self.node"),
        "        self.node",
    ),
    Mutation(
        "who finds an attempt begun does not ask whether it lives",
        "simulation/courier.py",
        "        self._ask_to_be_silent(voice.there, voice.order.beat_s)\n",
        "",
    ),
    Mutation(
        "how a worker said that it ended is written over",
        "simulation/courier.py",
        "        if known is not None and known.outcome is not None:\n            return\n",
        "",
    ),
    Mutation(
        "logs are not handed back",
        "executors/handback.py",
        "    logs = [name for name, _ in named if name.endswith(LOG_SUFFIX)]\n",
        "    logs: list[str] = []\n",
    ),
    Mutation(
        "words come without the record",
        "executors/handback.py",
        "    return {**record, **_events(",
        "    return {**_events(",
    ),
    Mutation(
        "a record comes home before what it names",
        "executors/ordering.py",
        (
            "    written = _bring_files(luggage, attempt, directory, plan) if word.ended else 0\n"
            "    if word.ended:\n"
            "        data = luggage.take(changes.record_name(word.number), changes.CHANGE_BYTES_MAX)\n"
            "        changes.receive(repository, data, directory, plan, attempt, bytes_max=bytes_max)\n"
            "    _bring_events(luggage, word, directory, plan)\n"
            '    directory.disk.make_directory(directory.path / "attempts")\n'
            "    directory.disk.write_atomic(directory.path / name, codec.compact(attempt))\n"
        ),
        (
            '    directory.disk.make_directory(directory.path / "attempts")\n'
            "    directory.disk.write_atomic(directory.path / name, codec.compact(attempt))\n"
            "    written = _bring_files(luggage, attempt, directory, plan) if word.ended else 0\n"
            "    if word.ended:\n"
            "        data = luggage.take(changes.record_name(word.number), changes.CHANGE_BYTES_MAX)\n"
            "        changes.receive(repository, data, directory, plan, attempt, bytes_max=bytes_max)\n"
            "    _bring_events(luggage, word, directory, plan)\n"
        ),
    ),
    Mutation(
        "nothing but the record comes home",
        "executors/ordering.py",
        "directory, plan) if word.ended else 0\n",
        "directory, plan) if not word.ended else 0\n",
    ),
    Mutation(
        "all runs of a name have one name at an engine",
        "work.py",
        "{run_digest(run_id)}-{number}",
        "{'0' * 8}-{number}",
    ),
    Mutation(
        "an order that nobody here knows is taken for one's own",
        "afar/orders.py",
        "        return there is not None and (not heard.order or there not in (heard.order, heard.word))\n",
        "        return there == ''\n",
    ),
    Mutation(
        "refs of attempts of other hosts are removed",
        "diff.py",
        "        there = kept and not actual.proves(RunId(run_id), number)\n",
        "        there = held is None and run_id == ''\n",
    ),
    Mutation(
        "nobody looks whether attempts at engines live before they are followed",
        "loop.py",
        "        living = self._fence_afar(seen, actions)\n",
        "        living: dict[RunId, str] = {}\n",
    ),
    Mutation(
        "nobody guards a push of many deletions",
        "lent.py",
        '[ "$asked" = "$(cat "$here/asked")" ] && : > "$here/passed"',
        ': > "$here/passed"',
    ),
    Mutation(
        "a host without runs is due to renew its lease",
        "claims.py",
        "        if self.announced is None or not living:\n",
        "        if self.announced is None or not self.said:\n",
    ),
    Mutation(
        "nobody foresees that a run should have started",
        "due.py",
        '        yield Due(in_s=left_s, what="a run should have started", subject=run.run_id)\n',
        "        return\n",
    ),
    Mutation(
        "nobody foresees that a heartbeat is missed",
        "due.py",
        '        yield Due(in_s=left_s, what="a heartbeat is missed", subject=run.run_id)\n',
        "        return\n",
    ),
    Mutation(
        "who may live at its engine is left alone for a while",
        "pacing.py",
        "    return bool(result.blocked or result.untouched) or ",
        "    return bool(result.blocked) or ",
    ),
    Mutation(
        "what another process of a host heard of engines is not read",
        "afar/attempts.py",
        "        self.memory.refresh()\n",
        "",
    ),
    Mutation(
        "that a run waits settles the claim by which its end is to be published",
        "state.py",
        "(found.attempt > number or (found.attempt == number and found.waiting is None))",
        "found.attempt >= number",
    ),
    Mutation(
        "nobody foresees that an engine takes something again",
        "afar/engines.py",
        "        due += [each.until_s for name, each in self.pauses.items() if name in self.said and now_s < each.until_s]\n",
        "",
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
