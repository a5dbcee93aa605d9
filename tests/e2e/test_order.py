"""Order between runs, with real commits and real workers: after what, in which group, who first."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from reconciler.actions import Action, Cancel, Wait
from reconciler.diff import diff
from reconciler.model import Instant
from reconciler.observe import Observer
from reconciler.world import open_world
from tests.scratch import ENVIRONMENT, Hub, Scratch, wait_for

NOTED = "workspace: empty\nstages:\n  - id: s\n    command: {command}\n"


def noted(scratch: Scratch, name: str, body: str = "true", **keys: object) -> None:
    """Write a request whose stage notes when it begins and ends."""
    file = scratch.outside / "noted"
    told = f"echo + {name} >> {file}\n{body} || exit 1\necho - {name} >> {file}"
    scratch.pipeline(name, NOTED.format(command=json.dumps(told)))
    scratch.request(name, name, **keys)


def notes(scratch: Scratch) -> list[str]:
    file = scratch.outside / "noted"
    return file.read_text().splitlines() if file.exists() else []


def rows(scratch: Scratch) -> dict[str, dict[str, object]]:
    found = json.loads(scratch.run("status", "--format", "json").stdout)["runs"]
    return {each["name"]: each for each in found}


# ------------------------------------------------------------------------------------------------ after


def test_a_run_begins_when_the_evidence_of_another_lands(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "a-last", after="[b-middle]")
    noted(scratch, "b-middle", after="[c-first]")
    noted(scratch, "c-first")
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    assert notes(scratch) == ["+ c-first", "- c-first", "+ b-middle", "- b-middle", "+ a-last", "- a-last"]


def test_a_single_pass_launches_what_its_own_evidence_sets_free(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "a", after="[b]")
    noted(scratch, "b")
    scratch.commit()
    scratch.run("reconcile")
    wait_for(lambda: scratch.record("b", "attempts/1.json").exists() and scratch.attempt("b")["outcome"])
    assert "which it comes after: its evidence is not committed yet" in scratch.run("why", "a").stdout
    scratch.run("reconcile")
    wait_for(lambda: notes(scratch)[-1:] == ["- a"])


def test_a_failed_predecessor_is_told_and_its_rerun_sets_free(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "a", after="[b]")
    noted(scratch, "b", body=f"test -e {scratch.outside}/good")
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 1
    said = f"comes after {scratch.run_id('b')}, which failed; run that again (raise its 'rerun'), or remove 'b' from 'after'"
    assert said in done.stdout
    assert rows(scratch)["a"]["reason"] == said
    assert said in scratch.run("why", "a").stdout
    assert said in scratch.run("plan").stdout
    (scratch.outside / "good").touch()
    noted(scratch, "b", body=f"test -e {scratch.outside}/good", rerun=1)
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert notes(scratch)[-2:] == ["+ a", "- a"]


def test_names_that_nobody_has_and_circles_are_rejected_and_stop_nobody_else(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "a", after="[b]")
    noted(scratch, "b", after="[a]")
    noted(scratch, "c", after="[goood]")
    noted(scratch, "good")
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 1
    assert notes(scratch) == ["+ good", "- good"]
    for path in ("runs.d/a.yaml", "runs.d/b.yaml"):
        assert f"rejected: {path}:3:1: requests come after each other: a -> b -> a; remove one of these" in done.stderr
    assert (
        "runs.d/c.yaml:3:9: it comes after 'goood', and there is no such request; did you mean 'good'?" in done.stderr
    )
    checked = scratch.run("validate")
    assert checked.returncode == 1
    assert "runs.d/a.yaml:3:1: requests come after each other: a -> b -> a" in checked.stdout
    assert "runs.d/c.yaml:3:9: warning: it comes after 'goood', and there is no such request" in checked.stdout


def test_a_request_that_was_removed_after_its_success_is_not_missed(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "b")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    (scratch.path / "runs.d/b.yaml").unlink()
    noted(scratch, "a", after="[b]")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert notes(scratch)[-1] == "- a"


# ------------------------------------------------------------------------------------------------ groups


def test_a_group_runs_one_after_the_other_in_the_order_of_the_commits(scratch: Scratch) -> None:
    scratch.settings("runs_max: 4\n")
    scratch.commit()
    for name in ("d", "a", "c", "b"):
        noted(scratch, name, concurrency="{group: g}")
        scratch.commit(f"ask for {name}")
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    assert notes(scratch) == [f"{sign} {name}" for name in "dacb" for sign in "+-"]
    cache = json.loads((scratch.path / ".git/reconciler/cache.json").read_bytes())
    order = sorted(cache["arrivals"], key=lambda path: cache["arrivals"][path][0])
    assert order == [f"runs.d/{name}.yaml" for name in "dacb"]


def test_an_edit_queues_again_and_what_history_lost_is_asked_anew(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "x", body=f"until test -e {scratch.outside}/go; do sleep 0.05; done", concurrency="{group: g}")
    scratch.commit()
    scratch.run("reconcile")
    for name in ("a", "b"):
        noted(scratch, name, concurrency="{group: g}")
        scratch.commit()
    assert "waits behind" in str(rows(scratch)["b"]["reason"])
    noted(scratch, "a", concurrency="{group: g}", title="Later")
    scratch.commit()
    scratch.run("reconcile")
    cache = scratch.path / ".git/reconciler/cache.json"
    known = json.loads(cache.read_bytes())
    cache.write_text(json.dumps({**known, "arrivals_tip": "1" * 40, "arrivals_tree": None, "arrivals": {}}))
    (scratch.outside / "go").touch()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert notes(scratch) == [f"{sign} {name}" for name in "xba" for sign in "+-"]


def test_a_newcomer_cancels_what_runs_in_its_group(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "old", body="sleep 300", concurrency="{group: g}")
    scratch.commit()
    scratch.run("reconcile")
    wait_for(lambda: notes(scratch))
    noted(scratch, "new", concurrency="{group: g, on_conflict: cancel_running}")
    scratch.commit()
    scratch.run("reconcile", "--wait")
    assert notes(scratch) == ["+ old", "+ new", "- new"]
    old = scratch.manifest("old")
    assert old["status"] == "cancelled"
    assert f"{scratch.run_id('new')} takes its place in group 'g'" in json.dumps(old)
    assert scratch.manifest("new")["status"] == "succeeded"


def test_nobody_resumes_a_run_beside_another_one_of_its_group(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "a", body="false", concurrency="{group: g}")
    scratch.commit()
    scratch.run("reconcile", "--wait")
    noted(scratch, "b", body=f"until test -e {scratch.outside}/go; do sleep 0.05; done", concurrency="{group: g}")
    scratch.commit()
    scratch.run("reconcile")
    refused = scratch.run("resume", "a")
    assert refused.returncode == 2
    assert f"{scratch.run_id('b')} of its group 'g' is under way; resume it when that has ended" in refused.stderr
    (scratch.outside / "go").touch()
    scratch.run("reconcile", "--wait")


def test_machines_keep_a_group_apart(hub: Hub) -> None:
    """Four runs of one group, three machines: the stages never meet, and nobody is left out."""
    machines = hub.clones("a", "b", "c", lease_s=20)
    first = machines[0]
    for name in ("w", "x", "y", "z"):
        body = f"mkdir {hub.outside}/alone && sleep 0.3 && rmdir {hub.outside}/alone"
        first.pipeline(name, NOTED.format(command=json.dumps(body)))
        first.request(name, name, concurrency="{group: g}")
    first.commit()
    first.push()
    for each in [machine.start("reconcile", "--wait") for machine in machines]:
        said, errors = each.communicate(timeout=120)
        assert each.returncode == 0, (said, errors)
    assert hub.proofs() == {"w": 1, "x": 1, "y": 1, "z": 1}
    assert hub.shared() == []


# ------------------------------------------------------------------------------------------------ priority


@pytest.mark.parametrize(("ageing", "first"), [("1h", "b"), ("30m", "a")])
def test_waiting_adds_to_priority(scratch: Scratch, ageing: str, first: str) -> None:
    scratch.settings(f"runs_max: 1\nageing: {ageing}\n")
    noted(scratch, "a")
    scratch.git("add", "-A")
    made_at(scratch, time.time() - 3.5 * 3600)
    noted(scratch, "b", priority=5)
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert notes(scratch)[0] == f"+ {first}"


def made_at(scratch: Scratch, epoch_s: float) -> None:
    """Commit what is staged as if it were another time."""
    environment = {**ENVIRONMENT, "GIT_COMMITTER_DATE": f"{int(epoch_s)} +0000"}
    subprocess.run(["git", "commit", "-q", "-m", "old"], cwd=scratch.path, env=environment, check=True)


# ------------------------------------------------------------------------------------------------ schedules

HOURLY = f'{{cron: "{(time.gmtime().tm_min + 30) % 60} * * * *"}}'
"""Once an hour, and not within the next half of one: no test may meet a fire."""


def scheduled(scratch: Scratch, name: str, schedule: str, hours: float, body: str = "true", **keys: object) -> None:
    """Commit a request with a schedule as if that had been hours ago."""
    noted(scratch, name, body, schedule=schedule, **keys)
    scratch.git("add", "-A")
    made_at(scratch, time.time() - 3600 * hours)


def fires(scratch: Scratch, name: str) -> list[str]:
    """Return the fires of which evidence is committed."""
    listed = scratch.git("ls-tree", "-r", "--name-only", "HEAD", ".runs/t/cli/").splitlines()
    paths = [each for each in listed if each.startswith(f".runs/t/cli/{name}-") and each.endswith("/manifest.json")]
    return sorted(json.loads(scratch.git("show", f"HEAD:{each}"))["fired_at"] for each in paths)


def test_of_missed_fires_the_newest_runs_once(scratch: Scratch) -> None:
    scratch.settings()
    scheduled(scratch, "nightly", HOURLY, 50)
    assert scratch.run("reconcile", "--wait").returncode == 0
    [fire] = fires(scratch, "nightly")
    assert fire >= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
    again = scratch.run("reconcile", "--wait")
    assert again.returncode == 0
    assert fires(scratch, "nightly") == [fire]
    assert "waits for its time, 20" in again.stdout
    assert "waits for its time, 20" in scratch.run("status").stdout
    assert "launch" not in scratch.run("plan").stdout


def test_a_new_schedule_fires_nothing_before_its_time(scratch: Scratch) -> None:
    scratch.settings()
    scheduled(scratch, "nightly", '{cron: "0 0 1 1 *", timezone: Europe/Berlin}', 0)
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert notes(scratch) == []
    assert "it waits, because it waits for its time" in scratch.run("why", "nightly").stdout
    assert "-12-31T23:00:00Z" in scratch.run("status").stdout


def test_what_is_skipped_is_skipped(scratch: Scratch) -> None:
    scratch.settings()
    then = time.gmtime(time.time() - 3 * 3600)
    cron = f'cron: "{then.tm_min} {then.tm_hour} * * *"'
    scheduled(scratch, "nightly", f"{{{cron}, missed: skip, grace: 1h}}", 48)
    scheduled(scratch, "late", f"{{{cron}, missed: skip, grace: 4h}}", 48)
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert notes(scratch) == ["+ late", "- late"]


def test_a_fire_survives_kills_and_edits_and_never_runs_twice(scratch: Scratch) -> None:
    scratch.settings()
    scheduled(scratch, "nightly", HOURLY, 5, "test $RECONCILER_ATTEMPT != 1 || sleep 300")
    scratch.run("reconcile")
    wait_for(lambda: notes(scratch))
    # Other words for the same wish: what runs goes on, and what is fired from now on is another matter.
    noted(scratch, "nightly", "test $RECONCILER_ATTEMPT != 1 || sleep 300", schedule=HOURLY, title="Nightly")
    scratch.commit()
    scratch.kill_run("nightly")
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert notes(scratch) == ["+ nightly", "+ nightly", "- nightly"]
    assert len(fires(scratch, "nightly")) == 1
    assert [each["outcome"] for each in scratch.manifest("nightly")["attempts"]] == ["lost", "succeeded"]


def test_a_fire_waits_for_the_run_of_the_one_before_it(scratch: Scratch) -> None:
    """A pass an hour from now meets the run of today's fire, which goes on, and then an edit of the request."""
    scratch.settings()
    scheduled(scratch, "nightly", HOURLY, 5, "sleep 300")
    scratch.run("reconcile")
    wait_for(lambda: notes(scratch))
    run_id, later = scratch.run_id("nightly"), decided_later(scratch, 3600)
    assert not [each for each in later if isinstance(each, Cancel)]
    [wait] = [each for each in later if isinstance(each, Wait)]
    assert (wait.subject == run_id, wait.reason) == (False, f"waits for {run_id}, the run before it, to end")
    noted(scratch, "nightly", "sleep 300", schedule=HOURLY, target="s")
    scratch.commit()
    assert [each.run_id for each in decided_later(scratch, 3600) if isinstance(each, Cancel)] == [run_id]


def decided_later(scratch: Scratch, seconds: float) -> tuple[Action, ...]:
    """Return what a pass would decide if the wall clock were that much ahead."""
    world = open_world(scratch.path)

    def later() -> Instant:
        now = world.now()
        at = datetime.fromisoformat(now.at) + timedelta(seconds=seconds)
        return replace(now, at=at.isoformat(timespec="milliseconds").replace("+00:00", "Z"))

    try:
        seen = Observer(replace(world, now=later)).observe()
    finally:
        world.repository.objects.close()
        world.workers.close()
    return diff(seen.desired, seen.actual, seen.now, seen.limits)


def test_the_run_of_a_fire_can_be_resumed_and_cancelled_by_commit(scratch: Scratch) -> None:
    scratch.settings()
    scheduled(scratch, "nightly", HOURLY, 5, f"test -e {scratch.outside}/good")
    assert scratch.run("reconcile", "--wait").returncode == 1
    [fire] = fires(scratch, "nightly")
    (scratch.outside / "good").touch()
    resumed = scratch.run("resume", scratch.run_id("nightly"))
    assert resumed.returncode == 0, resumed.stderr
    assert fires(scratch, "nightly") == [fire]


def test_two_machines_run_a_fire_once(hub: Hub) -> None:
    a, b = hub.clones("a", "b", lease_s=20)
    a.pipeline("nightly", NOTED.format(command=json.dumps("sleep 0.3")))
    a.request("nightly", "nightly", schedule='{cron: "0 0 * * *"}')
    a.git("add", "-A")
    made_at(a, time.time() - 3 * 86400)
    a.push()
    for each in [machine.start("reconcile", "--wait") for machine in (a, b)]:
        said, errors = each.communicate(timeout=120)
        assert each.returncode == 0, (said, errors)
    assert hub.proofs() == {"nightly": 1}
    assert hub.shared() == []


# ------------------------------------------------------------------------------------------------ inputs


def test_unchanged_inputs_cost_nothing_and_changed_ones_run_again(scratch: Scratch) -> None:
    scratch.settings()
    scratch.write("src/a.py", "1\n")
    noted(scratch, "green", on_change="[src]")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert len(notes(scratch)) == 2
    scratch.write("other.txt", "not an input\n")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert len(notes(scratch)) == 2
    scratch.write("src/a.py", "2\n")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert len(notes(scratch)) == 4
    scratch.write("src/a.py", "1\n")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert len(notes(scratch)) == 4, "this very tree is green already"


def test_a_change_supersedes_the_run_of_the_older_tree(scratch: Scratch) -> None:
    scratch.settings()
    scratch.write("src/a.py", "1\n")
    noted(scratch, "green", f"test -e {scratch.outside}/good || sleep 300", on_change="[src]")
    scratch.commit()
    scratch.run("reconcile")
    wait_for(lambda: notes(scratch))
    first = scratch.run_id("green")
    (scratch.outside / "good").touch()
    scratch.write("src/a.py", "2\n")
    scratch.commit()
    scratch.run("reconcile", "--wait")
    assert notes(scratch) == ["+ green", "+ green", "- green"]
    old = json.loads(scratch.git("show", f"HEAD:.runs/t/cli/{first}/manifest.json"))
    assert old["status"] == "cancelled"
    assert f"superseded by {scratch.run_id('green')}" in json.dumps(old)


def test_evidence_never_asks_for_the_next_run(scratch: Scratch) -> None:
    """The run ticks an item of a checklist that is among its own inputs."""
    scratch.settings()
    scratch.write("docs/list.md", "# List\n\n- [ ] Green <!-- item: t/green -->\n")
    scratch.write("tasks/index.json", '{"items": [{"id": "t", "title": "T"}]}\n')
    scratch.write("tasks/t.md", "# T\n\n- [ ] Green <!-- item: t/green -->\n")
    noted(scratch, "green", on_change="[docs, tasks]", proves="[t/green]")
    scratch.commit()
    for _ in range(3):
        assert scratch.run("reconcile", "--wait").returncode == 0
    assert "- [x] Green" in scratch.git("show", "HEAD:docs/list.md")
    assert len(notes(scratch)) == 2
    scratch.git("reset", "-q", "--hard")
    scratch.write("docs/list.md", (scratch.path / "docs/list.md").read_text() + "\nMore words.\n")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert len(notes(scratch)) == 4


def test_an_input_that_is_not_there_is_rejected_with_a_suggestion(scratch: Scratch) -> None:
    scratch.settings()
    scratch.write("src/main.py", "1\n")
    noted(scratch, "green", on_change="[src/mian.py, sources]")
    noted(scratch, "fine")
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 1
    assert "on_change names 'src/mian.py', and nothing is there at the tip; did you mean 'src/main.py'?" in done.stderr
    assert notes(scratch) == ["+ fine", "- fine"]
