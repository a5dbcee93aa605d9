"""Rules for secrets of one's own: what they find, what they let through, and that they end."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import pytest

from reconciler.model import Redact, Rule
from reconciler.patience import Patience
from reconciler.redact import Redactor, secret_values
from reconciler.rules import SLOW_MAX, entropy

NAMED = Rule(
    id="acme-licence", pattern="licence: (?P<secret>[0-9A-Za-z-]{8,})", entropy_min=2.5, allow=("test-[a-z]+",)
)
SLOW = "a.*b.*c.*d.*e"


def redacted(text: str, *rules: Rule, values: Sequence[bytes] = (), **redact: object) -> tuple[str, dict[str, int]]:
    redactor = Redactor.of(Redact(rules=rules, **redact), values, Patience(0.05))  # type: ignore[arg-type]
    done = redactor.feed(text.encode()) + redactor.flush()
    return done.decode(), redactor.counts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("licence: 8f3K-q2Zt-Lm90, ok\n", "licence: [redacted:acme-licence], ok\n"),
        ("licence: 0000-0000-0000\n", "licence: 0000-0000-0000\n"),  # too little entropy
        ("licence: test-qwertzuiop\n", "licence: test-qwertzuiop\n"),  # allowed
        ("licence:\n8f3K-q2Zt-Lm90\n", "licence:\n8f3K-q2Zt-Lm90\n"),  # rules see one line
        ("ä licence: 8f3K-q2Zt-Lm90\n", "ä licence: [redacted:acme-licence]\n"),
        ("licence: 8f3K\x1b[1;31m-q2Zt\x1b[0m-Lm90 x\n", "licence: [redacted:acme-licence] x\n"),
    ],
)
def test_a_rule_finds(text: str, expected: str) -> None:
    done, counts = redacted(text, NAMED)
    assert done == expected
    assert counts == ({"acme-licence": 1} if "redacted" in expected else {})


def test_what_is_found_is_counted_by_rule() -> None:
    token = "gh" + "p_" + "A1b2" * 9
    text = f"{token} {token} password=hunter22 ACME-1 licence: 8f3K-q2Zt-Lm90\n"
    done, counts = redacted(text, NAMED, patterns=("ACME-[0-9]",))
    assert counts == {"github-token": 2, "secret": 1, "pattern": 1, "acme-licence": 1}
    assert done.count("[redacted:") == 5


def test_shadow_counts_and_changes_nothing_and_off_does_not_look() -> None:
    text = "x licence: 8f3K-q2Zt-Lm90\npassword=hunter22"
    counted = redacted(text, NAMED)[1]
    assert redacted(text, NAMED, mode="shadow") == (text, counted)
    assert redacted(text, NAMED, mode="off") == (text, {})


def test_what_is_allowed_is_let_through_unless_the_environment_holds_it() -> None:
    values = secret_values({"MY_TOKEN": "example-abcdefgh"})
    assert redacted("password=example-abcd\n", allow=("example-[a-z]+",))[0] == "password=example-abcd\n"
    assert redacted("a example-abcdefgh\n", allow=(".*",), values=values)[0] == "a [redacted:environment]\n"


@pytest.mark.parametrize("colour", ["\x1b[31m", "\x1b[0;1m\x1b[K", "\x1b]8;;http://x\x07", "\x1bM"])
def test_colours_hide_nothing(colour: str) -> None:
    token, value = "gh" + "p_" + "A1b2" * 9, "Zk3vQ9xT7pLm"
    values = secret_values({"MY_TOKEN": value})
    for secret, kind in ((token, "github-token"), (value, "environment")):
        for at in range(1, len(secret)):
            text = f"{colour}it is {secret[:at]}{colour}{secret[at:]}{colour} ok\n"
            assert redacted(text, values=values)[0] == f"{colour}it is [redacted:{kind}]{colour} ok\n"


def test_colours_around_a_secret_stay() -> None:
    assert (
        redacted("\x1b[1mACME-1\x1b[0m\x1b[1mok\n", patterns=("ACME-[0-9]",))[0]
        == "\x1b[1m[redacted:pattern]\x1b[0m\x1b[1mok\n"
    )


def test_a_rule_that_takes_too_long_hides_what_it_did_not_finish_with() -> None:
    redactor = Redactor.of(Redact(patterns=(SLOW,)), (), Patience(0.05))
    block = b"a" * 15000 + b"b" * 300 + b"\n"
    out = b"".join(redactor.feed(block) for _ in range(SLOW_MAX + 20)) + redactor.feed(b"short\n") + redactor.flush()
    assert out == b"[redacted:slow-rule]\n" * (SLOW_MAX + 21)
    assert redactor.counts == {"slow-rule": SLOW_MAX + 21}


def test_patience_bounds_the_main_thread_only_and_leaves_no_handler() -> None:
    import signal

    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(TimeoutError), Patience(0.02):
        while True:
            pass
    assert signal.getsignal(signal.SIGVTALRM) == before
    done: list[bool] = []

    def elsewhere() -> None:
        with Patience(0.001):
            done.append(sum(range(200_000)) > 0)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done == [True]


def test_entropy_is_in_bits_a_character() -> None:
    assert (entropy("aaaa"), entropy("abab"), entropy("abcd")) == (0, 1, 2)


def test_a_replacement_of_a_rule_with_digits_stays_what_it_is() -> None:
    rule = Rule(id="v2-key", pattern="k-[a-z]{8}")
    once = redacted("token=k-abcdefgh\n", rule)[0]
    assert once == "token=[redacted:v2-key]\n"
    assert redacted(once, rule) == (once, {})
    assert json.loads(redacted(json.dumps({"a": "k-abcdefgh"}), rule)[0]) == {"a": "[redacted:v2-key]"}
