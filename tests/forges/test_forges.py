"""The three forges keep the same promises; every request and answer is one that their own description knows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reconciler.errors import ForgeFailed, ForgeRefused, ForgeUnclear
from reconciler.forges.forge import Check, Forge, Kind, State, Token, Wanted
from reconciler.forges.opening import speak
from tests.forges.description import description
from tests.forges.server import OTHER, TOKEN, Fault, ForgeServer, forge_server

MARKER = "<!-- reconciler:plan -->"
BODY = f"{MARKER}\nAll is well.\n"
HEAD = "a" * 40
WANTED = Wanted(head="runs/r-0123abcd", base="main", title="Make it so", body="What was done.\n")


@pytest.fixture(params=list(Kind))
def server(request: pytest.FixtureRequest) -> Iterator[ForgeServer]:
    kind: Kind = request.param
    with forge_server(kind, description(kind.value)) as found:
        yield found


@pytest.fixture
def forge(server: ForgeServer) -> Iterator[Forge]:
    found = speak(server.site, Token(name="FORGE_TOKEN", value=TOKEN))
    assert not isinstance(found, str)
    found.http.sleep = lambda _: None
    yield found
    found.close()


# ------------------------------------------------------------------------------------------------ comments


def test_a_comment_is_made_once_and_kept_up_to_date(forge: Forge, server: ForgeServer) -> None:
    server.add_comment(3, "nice work")
    assert forge.comment(3, MARKER, BODY).how == "created"
    assert forge.comment(3, MARKER, BODY).how == "unchanged"
    assert forge.comment(3, MARKER, f"{BODY}more\n").how == "updated"
    assert [each["body"] for each in server.comments] == ["nice work", f"{BODY}more\n"]


def test_another_pull_request_has_a_comment_of_its_own(forge: Forge, server: ForgeServer) -> None:
    forge.comment(3, MARKER, BODY)
    assert forge.comment(4, MARKER, BODY).how == "created"
    assert [each["number"] for each in server.comments] == [3, 4]


def test_a_comment_with_our_marker_by_somebody_else_is_not_ours(forge: Forge, server: ForgeServer) -> None:
    server.add_comment(3, f"{MARKER} approved", OTHER)
    assert forge.comment(3, MARKER, BODY).how == "created"
    assert server.comments[0]["body"] == f"{MARKER} approved"
    assert forge.comment(3, MARKER, BODY).how == "unchanged"


@pytest.mark.parametrize(
    "fault", [Fault(status=500, method="POST", after=True), Fault(reset=True, method="POST", after=True)]
)
def test_a_comment_whose_answer_got_lost_is_not_made_twice(forge: Forge, server: ForgeServer, fault: Fault) -> None:
    server.faults = [fault]
    assert forge.comment(3, MARKER, BODY).how == "unchanged"
    assert len(server.comments) == 1


def test_a_comment_whose_answer_always_gets_lost_is_given_up(forge: Forge, server: ForgeServer) -> None:
    server.faults = [Fault(reset=True, method="POST")] * 3
    with pytest.raises(ForgeUnclear):
        forge.comment(3, MARKER, BODY)


def test_our_comment_is_found_behind_hundreds_of_others(forge: Forge, server: ForgeServer) -> None:
    for number in range(230):
        server.add_comment(3, f"comment {number}", OTHER)
    forge.comment(3, MARKER, BODY)
    assert forge.comment(3, MARKER, BODY).how == "unchanged"


def test_a_comment_that_is_deleted_meanwhile_is_made_anew(forge: Forge, server: ForgeServer) -> None:
    forge.comment(3, MARKER, BODY)
    method = "PUT" if server.kind is Kind.GITLAB else "PATCH"
    server.faults = [Fault(status=404, method=method)]
    assert forge.comment(3, MARKER, f"{BODY}more").how == "created"


@pytest.mark.parametrize("server", [Kind.GITLAB], indirect=True)
def test_no_line_of_ours_is_a_quick_action(forge: Forge, server: ForgeServer) -> None:
    forge.comment(3, MARKER, f"{MARKER}\n/merge\n  /close\n> /approve\nsee a/b\n")
    lines = server.comments[0]["body"].splitlines()
    assert lines[1:] == ["\\/merge", "  \\/close", "> \\/approve", "see a/b"]
    forge.pull_request(Wanted(head="h", base="main", title="t", body="/merge"))
    assert server.pulls[0]["body"] == "\\/merge"


@pytest.mark.parametrize("server", [Kind.GITHUB], indirect=True)
def test_the_token_of_an_app_knows_its_comments_by_their_kind(forge: Forge, server: ForgeServer) -> None:
    server.knows_me = False
    server.add_comment(3, f"{MARKER} approved", OTHER)
    assert forge.comment(3, MARKER, BODY).how == "created"
    assert forge.comment(3, MARKER, BODY).how == "unchanged"


# ------------------------------------------------------------------------------------------------ statuses


@pytest.mark.parametrize("state", list(State))
def test_a_status_says_what_a_commit_came_to(forge: Forge, server: ForgeServer, state: State) -> None:
    forge.status(HEAD, Check(context="reconciler/build", state=state, description="x" * 500, link=f"{server.url}/e"))
    word = "failed" if server.kind is Kind.GITLAB and state in (State.FAILURE, State.ERROR) else state.value
    (status,) = server.statuses
    assert (status["sha"], status["name"], status["state"]) == (HEAD, "reconciler/build", word)
    assert status["target_url"] == f"{server.url}/e"


def test_the_same_status_twice_is_no_failure(forge: Forge, server: ForgeServer) -> None:
    for _ in range(2):
        forge.status(HEAD, Check(context="reconciler", state=State.SUCCESS, description="fine"))


def test_a_status_is_set_though_the_connection_breaks(forge: Forge, server: ForgeServer) -> None:
    server.faults = [Fault(reset=True), Fault(status=502), Fault(status=429, headers={"Retry-After": "1"})]
    forge.status(HEAD, Check(context="reconciler", state=State.SUCCESS, description="fine"))
    assert len(server.statuses) == 1


# ------------------------------------------------------------------------------------------------ pull requests


def test_a_pull_request_is_opened_once(forge: Forge, server: ForgeServer) -> None:
    opened = forge.pull_request(WANTED)
    assert forge.pull_request(WANTED) == opened
    assert (opened.number, opened.open) == (1, True)
    assert opened.url.startswith(server.url)
    (pull,) = server.pulls
    assert (pull["head"], pull["base"], pull["title"], pull["body"]) == (WANTED.head, "main", WANTED.title, WANTED.body)


@pytest.mark.parametrize("state", ["closed", "merged"])
def test_what_people_closed_is_not_opened_again(forge: Forge, server: ForgeServer, state: str) -> None:
    forge.pull_request(WANTED)
    server.pulls[0]["state"] = state if server.kind is Kind.GITLAB else "closed"
    assert not forge.pull_request(WANTED).open
    assert len(server.pulls) == 1


def test_a_branch_of_that_name_in_a_fork_is_another_one(forge: Forge, server: ForgeServer) -> None:
    server.open_pull(WANTED.head, "main", "mine", "", owner="mallory")
    assert forge.pull_request(WANTED).number == 2


@pytest.mark.parametrize(
    "fault", [Fault(status=500, method="POST", after=True), Fault(reset=True, method="POST", after=True)]
)
def test_a_pull_request_whose_answer_got_lost_is_found(forge: Forge, server: ForgeServer, fault: Fault) -> None:
    server.faults = [fault]
    assert forge.pull_request(WANTED).number == 1
    assert len(server.pulls) == 1


def test_one_that_somebody_else_opened_just_now_is_found(forge: Forge, server: ForgeServer) -> None:
    server.open_pull(WANTED.head, WANTED.base, "theirs", "")
    empty = Fault(status=200, body=b"[]", method="GET")
    server.faults = [empty]
    assert forge.pull_request(WANTED).number == 1
    assert len(server.pulls) == 1


# ------------------------------------------------------------------------------------------------ refusals

SAID = {
    (Kind.GITHUB, 403): "the token in $FORGE_TOKEN may not comment (no); give it the permission 'pull-requests: write'",
    (Kind.GITLAB, 403): "the token in $FORGE_TOKEN may not comment (no); give it scope 'api' and role Reporter",
    (Kind.GITEA, 403): "the token in $FORGE_TOKEN may not comment (no); give it the permission 'write:issue'",
}


@pytest.mark.parametrize("status", [401, 403, 404, 422])
def test_a_refusal_is_a_sentence_that_says_what_is_missing(forge: Forge, server: ForgeServer, status: int) -> None:
    server.faults = [Fault(status=status, body=b'{"message": "no"}', method="POST")]
    with pytest.raises(ForgeRefused) as refused:
        forge.comment(3, MARKER, BODY)
    said = str(refused.value)
    assert "(acme/billing): " in said
    assert {401: "is not accepted", 403: "may not comment", 404: "may not see it", 422: "it answered 422"}[
        status
    ] in said
    assert SAID.get((server.kind, status), "") in said
    assert TOKEN not in said


def test_the_permission_for_a_pull_request_is_named(forge: Forge, server: ForgeServer) -> None:
    server.faults = [Fault(status=403, body=b"{}", method="POST")]
    with pytest.raises(ForgeRefused, match=r"may not open a pull request; give it "):
        forge.pull_request(WANTED)


def test_a_token_that_the_server_repeats_is_not_repeated_by_us(forge: Forge, server: ForgeServer) -> None:
    server.faults = [Fault(status=401, body=f'{{"message": "bad token {TOKEN}"}}'.encode())]
    with pytest.raises(ForgeRefused) as refused:
        forge.status(HEAD, Check(context="c", state=State.SUCCESS, description=""))
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("body", [b"null", b"{}", b'"x"', b"not json"])
def test_an_answer_that_is_none_is_told(forge: Forge, server: ForgeServer, body: bytes) -> None:
    server.faults = [Fault(status=201, body=body, method="POST")]
    with pytest.raises(ForgeFailed):
        forge.pull_request(WANTED)


def test_the_token_goes_in_one_header_and_nowhere_else(forge: Forge, server: ForgeServer) -> None:
    forge.comment(3, MARKER, BODY)
    forge.pull_request(WANTED)
    assert all(each.count(TOKEN) == 1 for each in server.authority)
    assert TOKEN not in str(server.requests)


def test_files_have_an_address_for_people(forge: Forge, server: ForgeServer) -> None:
    words = {Kind.GITHUB: "blob", Kind.GITLAB: "-/blob", Kind.GITEA: "src/commit"}
    assert (
        forge.file_url(HEAD, ".runs/t/a b.json")
        == f"{server.url}/acme/billing/{words[server.kind]}/{HEAD}/.runs/t/a%20b.json"
    )
