"""`reconciler serve` as people, forges and Prometheus meet it: a real server on loopback, a real browser."""

from __future__ import annotations

import hmac
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from reconciler.disk import DISK
from reconciler.model import RunId, TaskId
from reconciler.outlets.box import Box, Dead, Open
from tests.conftest import end_all
from tests.scratch import Scratch, wait_for

TOKEN, SECRET = "t" * 32, "s" * 32
SETTINGS = "runs_max: 2\n"
PIPELINE = """\
workspace: empty
stages:
  - id: first
    title: The <b>first</b> stage
    command: "echo begun"
  - id: slow
    command: "for i in $(seq 1 400); do echo line $i; sleep 0.1; done"
"""
SCHEMA = Path(__file__).resolve().parents[2] / "schemas/event.schema.json"
EVENT = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_bytes()))
CHROMIUM = shutil.which("chromium")


class Served:
    """A server in a repository, and a client that talks to it."""

    def __init__(self, scratch: Scratch, *words: str) -> None:
        self.scratch = scratch
        secrets = {"RECONCILER_SERVE_TOKEN": TOKEN, "RECONCILER_HOOK_SECRET": SECRET}
        self.process = scratch.start("serve", "--address", "127.0.0.1:0", *words, **secrets)
        assert self.process.stderr is not None
        self.base = self.process.stderr.readline().strip()
        assert self.base.startswith("http://127.0.0.1:"), self.base
        self.http = httpx.Client(base_url=self.base, trust_env=False, timeout=20)
        wait_for(lambda: self.get("/readyz").status_code == 200)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.http.get(path, headers=headers)

    def passes(self) -> float:
        return self.metric("reconciler_passes_total")

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        assert found, name
        return float(found[1])

    def end(self) -> int:
        """End it as a supervisor does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(20)
        self.close()
        return status

    def close(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=20)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def served(place: Path) -> Iterator[Served]:
    """A server with a run that is proven, one that runs for long, one that waits, and a file that was rejected."""
    scratch = Scratch(place)
    scratch.settings(SETTINGS)
    scratch.write("tasks/t.md", "# T\n\n- [ ] It works <!-- item: t/works -->\n")
    scratch.pipeline("quick", "workspace: empty\nstages:\n  - {id: s, command: 'echo done'}\n")
    scratch.pipeline("long", PIPELINE)
    scratch.request("a", "quick", proves="[t/works]")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    scratch.request("b", "long")
    scratch.request("c", "quick", after="[b]")
    scratch.request("wrong", "nothing")
    scratch.commit()
    found = Served(scratch)
    try:
        wait_for(lambda: "line 1" in _log(scratch))
        # The page shows a run as it is once the pass that launched it is over.
        page = f"/runs/t/{scratch.run_id('b')}.html"
        wait_for(lambda: "slow: running" in found.get(page).text)
        yield found
    finally:
        found.close()
        end_all(place)


def _log(scratch: Scratch) -> str:
    path = scratch.record("b", "commands/02-slow.log")
    return path.read_text() if path.exists() else ""


# ------------------------------------------------------------------------------------------------ events


def heard(served: Served, path: str, last: str = "", until: str = "run:completed") -> list[str]:
    """Return the ids of what a client is told, the last of which is of the event `until`; "" is the end of a stream."""
    ids = []
    with served.http.stream("GET", path, headers={"Last-Event-ID": last} if last else {}) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            name, _, said = line.partition(": ")
            if name == "data":
                document = json.loads(said)
                assert EVENT.is_valid(document), document
                ids.append(document["id"])
                if document["event"] == until:
                    return ids
    return [*ids, ""]


def test_the_events_of_a_run_are_streamed_and_one_goes_on_where_one_stopped(served: Served) -> None:
    run_id = served.scratch.run_id("a")
    path = f"/events/t/{run_id}"
    ids = heard(served, path, until="")
    told = [each.removeprefix(f"{run_id}/1/") for each in ids]
    assert told == [
        *("run:started", "plan:completed", "stage:started/s/1", "stage:completed/s/1", "build:completed"),
        *("test:completed", "review:completed", "run:completed", ""),
    ]
    assert heard(served, path, ids[2], until="") == ids[3:]
    assert served.get(path, **{"Last-Event-ID": ids[-2]}).status_code == 204
    # Without its journal, as on another machine, its evidence tells it with the same ids.
    (served.scratch.directory("a") / "events.jsonl").unlink()
    again = heard(served, path, until="")
    assert set(again) < set(ids) and again[-2] == ids[-2]
    assert heard(served, path, ids[2], until="") == [ids[3], ids[7], ""]


def test_the_events_of_a_run_under_way_come_as_they_happen(served: Served) -> None:
    path = f"/events/t/{served.scratch.run_id('b')}"
    ids = heard(served, path, until="stage:completed")
    assert ids[-1].endswith("/stage:completed/first/1")
    assert heard(served, path, ids[1], until="stage:completed") == ids[2:]


@pytest.mark.parametrize("path", ["/events/t/nothing-1a2b3c4d", "/events/other/x", "/events/t/%2e%2e"])
def test_there_are_no_events_of_what_is_not_there(served: Served, path: str) -> None:
    assert served.get(path).status_code == 404
    assert served.get(path, Host="elsewhere.example").status_code == 421


# ------------------------------------------------------------------------------------------------ reading


def test_every_link_of_every_page_leads_somewhere(served: Served) -> None:
    seen, ahead = set(), {"/"}
    while ahead:
        path = ahead.pop()
        seen.add(path)
        answer = served.get(path)
        assert answer.status_code == 200, path
        if "html" in answer.headers["content-type"]:
            links = re.findall(r'(?:href|src)="([^"#]+)"', answer.text)
            ahead |= {str(answer.url.join(each).raw_path.decode()) for each in links} - seen
    run_id = served.scratch.run_id("b")
    assert f"/runs/t/{run_id}.html" in seen
    assert f"/logs/t/{run_id}/02-slow.html" in seen
    assert {"/queue.html", "/tasks/t.html", "/list/active.html", "/assets/style.css"} <= seen


def test_a_run_under_way_is_shown_as_it_is_now(served: Served) -> None:
    page = served.get(f"/runs/t/{served.scratch.run_id('b')}.html").text
    assert "The &lt;b&gt;first&lt;/b&gt; stage" in page
    assert 'aria-label="slow: running, began after' in page
    assert "its last heartbeat is" in page
    assert "Nothing of it is committed yet." in page


def test_the_queue_says_why(served: Served) -> None:
    page = served.get("/queue.html").text
    assert f"waits for {served.scratch.run_id('b')}" in page
    assert page.count("there is no pipeline &#39;nothing&#39;") == 1


def test_what_was_not_delivered_is_told(served: Served) -> None:
    box = Box(directory=served.scratch.path / ".git/reconciler/outlets/cloud-sync", disk=DISK)
    for number in range(7):
        key, at = f"a-1a2b3c4d.{number}", f"2026-03-01T09:30:0{number}Z"
        owed = Open(key=key, run_id=RunId("a-1a2b3c4d"), task_id=TaskId("t"), attempt=number, blob="0" * 40, since=at)
        box.bury(Dead(owed=owed, at=at, reason="answered <b>422</b>"))
    page = served.get("/").text
    assert "Not delivered: a-1a2b3c4d.6 to cloud-sync: answered &lt;b&gt;422&lt;/b&gt;" in page
    assert page.count("Not delivered: ") == 5 and "2 more were not delivered." in page
    assert "reconciler deliveries --retry all" in page


def test_a_list_is_searched_without_a_script(served: Served) -> None:
    assert "1 run matches" in served.get("/?q=nothing+absent").text
    assert "No run matches" in served.get("/?q=%3Cscript%3E").text
    assert "<script>" not in served.get("/?q=%3Cscript%3E").text


def test_a_log_follows(served: Served) -> None:
    path = f"/logs/t/{served.scratch.run_id('b')}/02-slow"
    page = served.get(f"{path}.html").text
    offset = re.search(r'data-follow="02-slow.txt" data-offset="(\d+)"', page)
    assert offset
    wait_for(lambda: served.get(f"{path}.txt?from={offset[1]}").text != "")
    more = served.get(f"{path}.txt?from={offset[1]}")
    assert more.headers["content-type"].startswith("text/plain")
    assert more.text.startswith("line ")
    assert int(more.headers["x-log-offset"]) > int(offset[1])
    assert more.headers["x-log-ended"] == "no"
    for wrong in ("-1", "x", "9" * 40, "1e9"):
        assert served.get(f"{path}.txt?from={wrong}").status_code == 200


def test_a_log_that_was_replaced_by_a_link_is_not_followed(served: Served) -> None:
    path = served.scratch.record("b", "commands/01-first.log")
    kept = path.with_suffix(".kept")
    path.rename(kept)
    path.symlink_to("/etc/passwd")
    answer = served.get(f"/logs/t/{served.scratch.run_id('b')}/01-first.html")
    path.unlink()
    kept.rename(path)
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/nothing", "/runs/t/x-12345678.html", "/runs/other/a.html", "/tasks/none.html", "/list/all-9.html",
        "/logs/t/x-12345678/01-s.html", "/evidence/t/x-12345678/manifest.json", "/assets/other.css",
        "/assets/%2e%2e/%2e%2e/etc/passwd", "/runs/%00.html",
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_page_that_says_so(served: Served, path: str) -> None:
    answer = served.get(path)
    assert answer.status_code == 404
    assert "<h1>Not there</h1>" in answer.text


def test_every_answer_forbids_what_pages_do_not_need(served: Served) -> None:
    for path in ("/", "/nothing", "/assets/live.js", "/metrics", "/healthz"):
        headers = served.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


def test_what_has_not_changed_is_not_sent_again(served: Served) -> None:
    tag = served.get("/assets/style.css").headers["etag"]
    assert served.get("/assets/style.css", **{"If-None-Match": tag}).status_code == 304


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::2]:80", "localhost@evil"])
def test_another_host_is_refused(served: Served, host: str) -> None:
    """A page of somebody else whose name was made to point here must not read this one."""
    assert served.get("/", Host=host).status_code == 421
    assert served.http.post("/wake", headers={"Host": host, "Authorization": f"Bearer {TOKEN}"}).status_code == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_pages_are_for_reading(served: Served, method: str) -> None:
    assert served.http.request(method, "/").status_code == 405


# ------------------------------------------------------------------------------------------------ waking


def test_a_token_wakes_it(served: Served) -> None:
    assert served.http.post("/wake").status_code == 401
    assert served.http.post("/wake", headers={"Authorization": "Bearer wrong"}).status_code == 401
    before = served.passes()
    assert served.http.post("/wake", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 202
    wait_for(lambda: served.passes() > before)


@pytest.mark.parametrize("forge", ["github", "gitlab", "gitea"])
def test_a_webhook_that_is_signed_wakes_it(served: Served, forge: str) -> None:
    body = b'{"ref": "refs/heads/main"}'
    signed = hmac.new(SECRET.encode(), body, "sha256").hexdigest()
    headers = {
        "github": {"X-Hub-Signature-256": f"sha256={signed}"},
        "gitlab": {"X-Gitlab-Token": SECRET},
        "gitea": {"X-Gitea-Signature": signed},
    }[forge]
    before = served.passes()
    assert served.http.post(f"/hooks/{forge}", content=body).status_code == 401
    assert served.http.post(f"/hooks/{forge}", content=body, headers=headers).status_code == 202
    assert served.http.post(f"/hooks/{forge}", content=body, headers=headers).status_code == 202
    wait_for(lambda: served.passes() > before)


def test_a_webhook_is_bounded(served: Served) -> None:
    large = b"x" * (1024 * 1024 + 1)
    assert served.http.post("/hooks/github", content=large).status_code == 413
    assert served.http.post("/hooks/github", content=iter([large])).status_code == 413
    assert served.http.post("/hooks/other", content=b"").status_code == 404


def test_a_flood_wakes_it_once_a_second(served: Served) -> None:
    before, began_s = served.passes(), time.monotonic()
    for _ in range(100):
        served.http.post("/wake", headers={"Authorization": f"Bearer {TOKEN}"})
    assert served.passes() - before <= 3 * (time.monotonic() - began_s + 2)


# ------------------------------------------------------------------------------------------------ machines


def test_what_is_measured_is_measured(served: Served) -> None:
    text = served.get("/metrics").text
    assert served.metric('reconciler_runs{phase="running"}') == 1
    assert served.metric('reconciler_runs{phase="succeeded"}') == 1
    assert served.metric("reconciler_rejections") == 1
    assert served.metric("reconciler_heartbeat_age_seconds_max") < 30
    assert served.metric("reconciler_oldest_waiting_seconds") > 0
    assert served.metric('reconciler_pass_seconds_bucket{le="+Inf"}') >= 1
    live = [line for line in text.splitlines() if not line.startswith("reconciler_evidence_")]
    assert {each for line in live for each in re.findall(r"(\w+)=\"", line)} == {"phase", "le"}
    # What the verb writes of the same commit is what is served, word by word.
    measured = served.scratch.run("metrics", "--format", "prometheus").stdout
    assert 'reconciler_evidence_runs_total{task="t",pipeline="quick",status="succeeded"} 1\n' in measured
    assert measured in text
    assert all(each.name.startswith("reconciler_") for each in text_string_to_metric_families(text))
    assert served.get("/healthz").text == "ok\n"


def test_clients_that_say_nothing_are_in_nobodys_way(served: Served) -> None:
    host, port = served.base.removeprefix("http://").rstrip("/").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(40)]
    for each in silent[:20]:
        each.sendall(b"GET / HTTP/1.1\r\nHost: ")
    before = served.passes()
    assert served.get("/").status_code == 200
    served.http.post("/wake", headers={"Authorization": f"Bearer {TOKEN}"})
    wait_for(lambda: served.passes() > before)
    for each in silent:
        each.close()


# ------------------------------------------------------------------------------------------------ a browser


def look(url: str, picture: Path, width: int, *, dark: bool = False) -> tuple[tuple[int, int], str]:
    """Return the size of a picture of a page as a browser shows it, and what its console says."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    profile = picture.with_suffix(".profile")
    done = subprocess.run(
        [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
         "--disable-dev-shm-usage", "--enable-logging=stderr", f"--user-data-dir={profile}", scheme,
         f"--window-size={width},900", f"--screenshot={picture}", url],
        capture_output=True, text=True, check=False, timeout=120, env={"PATH": os.environ["PATH"], "HOME": str(profile)},
    )  # fmt: skip
    shutil.rmtree(profile, ignore_errors=True)
    assert picture.exists(), done.stderr[-2000:]
    data = picture.read_bytes()
    said = [each for each in done.stderr.splitlines() if "CONSOLE" in each]
    return (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])), "\n".join(said)


browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; apt-get install chromium")


@browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, True)])
def test_a_browser_shows_a_live_page_and_complains_of_nothing(
    served: Served, tmp_path: Path, width: int, dark: bool
) -> None:
    run_id = served.scratch.run_id("b")
    for number, path in enumerate((f"logs/t/{run_id}/02-slow.html", f"runs/t/{run_id}.html")):
        seen, said = look(f"{served.base}{path}", tmp_path / f"{number}.png", width, dark=dark)
        assert seen == (width, 900)
        assert said == ""


@browser
def test_a_browser_shows_a_report_from_a_file(served: Served, tmp_path: Path) -> None:
    assert served.scratch.run("report", "--output", str(tmp_path / "site")).returncode == 0
    light, said = look((tmp_path / "site/index.html").as_uri(), tmp_path / "light.png", 360)
    assert (light, said) == ((360, 900), "")
    dark, said = look((tmp_path / "site/index.html").as_uri(), tmp_path / "dark.png", 360, dark=True)
    assert (dark, said) == ((360, 900), "")
    assert (tmp_path / "light.png").read_bytes() != (tmp_path / "dark.png").read_bytes()


# ------------------------------------------------------------------------------------------------ beginning and ending


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--address", "0.0.0.0:0"], "others can reach it, and there is no token"),
        (["--address", "8080"], "not a host and a port; for example 127.0.0.1:8080"),
        (["--address", "192.0.2.1:0", "--insecure"], "end what listens there, or name another address"),
        (["--token-file", "none"], "No such file or directory"),
        (["--token-file", "reconciler.yaml", "--address", "127.0.0.1:x"], "not a host and a port"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(scratch: Scratch, words: list[str], said: str) -> None:
    scratch.settings()
    scratch.commit()
    done = scratch.run("serve", *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_short_secret_is_refused(scratch: Scratch) -> None:
    done = scratch.run("serve", RECONCILER_SERVE_TOKEN="short")
    assert done.returncode == 2
    assert "$RECONCILER_SERVE_TOKEN: a secret has 16 to 1024 characters" in done.stderr


def test_no_stage_inherits_a_secret_and_sigterm_ends_it(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", "env > $RECONCILER_RUN_DIR/../../../../env.txt")
    found = Served(scratch)
    wait_for(lambda: scratch.path.joinpath("env.txt").exists() or list(scratch.path.rglob("env.txt")))
    wait_for(lambda: "succeeded" in found.get("/list/succeeded.html").text)
    said = next(scratch.path.rglob("env.txt")).read_text()
    assert TOKEN not in said
    assert SECRET not in said
    assert found.end() == 0
