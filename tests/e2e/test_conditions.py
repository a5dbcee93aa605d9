"""Conditions and closing stages, through the whole route."""

from __future__ import annotations

from tests.scratch import Scratch

PIPELINE = """\
workspace: empty
parameters: {{full: {{default: false}}}}
stages:
  - {{id: unit, command: "exit {code}", allow_failure: true}}
  - {{id: load, command: "true", needs: [unit], when: parameters.full == true}}
  - {{id: report, command: "true", needs: [load], when: "stages.unit.status == 'failed' and changed('pipelines/*')"}}
  - {{id: after, command: "true"}}
  - {{id: clean, command: echo cleaned, finally: true}}
"""


def run(scratch: Scratch, code: int, **parameters: object) -> dict[str, str]:
    scratch.settings()
    scratch.pipeline("p", PIPELINE.format(code=code))
    scratch.request("r", "p", **({"parameters": parameters} if parameters else {}))
    scratch.commit()
    asked = scratch.run("reconcile", "--wait")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    return {name: each["status"] for name, each in scratch.stages("r").items()}


def test_a_stage_whose_condition_does_not_hold_is_skipped_and_what_needs_it_goes_on(scratch: Scratch) -> None:
    states = run(scratch, 1)
    assert states == {
        "unit": "failed",
        "load": "skipped",
        "report": "succeeded",
        "after": "succeeded",
        "clean": "succeeded",
    }
    assert scratch.stages("r")["load"]["summary"] == "its condition does not hold: parameters.full == true"


def test_a_condition_sees_the_values_of_the_request(scratch: Scratch) -> None:
    states = run(scratch, 0, full=True)
    assert (states["load"], states["report"]) == ("succeeded", "skipped")


def test_what_closes_a_run_runs_after_a_failure_and_its_own_failure_counts(scratch: Scratch) -> None:
    scratch.settings()
    scratch.pipeline(
        "p",
        "workspace: empty\nstages:\n  - {id: a, command: exit 3}\n  - {id: b, command: 'true'}\n"
        "  - {id: clean, command: exit 4, finally: true}\n  - {id: more, command: 'true', finally: true}\n",
    )
    scratch.request("r", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    states = {name: each["status"] for name, each in scratch.stages("r").items()}
    assert states == {"a": "failed", "b": "skipped", "clean": "failed", "more": "succeeded"}
    assert scratch.manifest("r")["status_detail"].startswith("stage 'a' failed")
