"""Redaction: no secret passes, whatever the chunks; nothing else changes; it stays fast and small.

No secret stands in this file as such: they are put together at run time, so that scanners have nothing to find here.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
import re
import time
import tracemalloc
from collections.abc import Iterable
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.redact import KEY_BLOCK_MAX, LINE_MAX, QUIET_LINES_MAX, SECRET_MAX, Redactor, redact_text, secret_values

UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
MIXED = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7" * 8
HEX = "0123456789abcdef" * 8
DASHES = "-" * 5


def letters(count: int) -> str:
    return MIXED[:count]


def jwt() -> str:
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")
    claims = base64.urlsafe_b64encode(b'{"sub":"1234567890","admin":true}').decode().rstrip("=")
    return f"{header}.{claims}.{letters(43)}"


TOKENS = {
    "anthropic-key": ["sk-" + "ant-api03-" + letters(93) + "AA"],
    "atlassian-token": ["ATAT" + "T3" + letters(60) + "=1A2B3C4D"],
    "aws-access-key": ["AK" + "IA" + UPPER[:16], "AS" + "IA" + UPPER[5:21]],
    "bitbucket-token": ["AT" + "BB" + letters(32)],
    "databricks-token": ["da" + "pi" + HEX[:32]],
    "digitalocean-token": ["dop" + "_v1_" + HEX[:64]],
    "docker-token": ["dckr" + "_pat_" + letters(27)],
    "github-token": [
        *("gh" + kind + "_" + letters(36) for kind in "pousr"),
        "gh" + "p_" + "A" * 36,
        "github" + "_pat_" + letters(22) + "_" + letters(59),
    ],
    "gitlab-token": ["gl" + kind + "-" + letters(20) for kind in ("pat", "dt", "rt", "cbt", "ptt", "soat")],
    "google-api-key": ["AI" + "za" + letters(35)],
    "google-token": ["ya" + "29." + letters(60), "GOC" + "SPX-" + letters(28)],
    "grafana-token": ["gl" + "sa_" + letters(32) + "_" + HEX[:8]],
    "huggingface-token": ["hf" + "_" + letters(34)],
    "jwt": [jwt()],
    "npm-token": ["npm" + "_" + letters(36)],
    "openai-key": ["sk" + "-" + letters(48), "sk-" + "proj-" + letters(80), "sk" + "-" + "A" * 48],
    "private-key": ["AGE-SECRET" + "-KEY-1" + (UPPER * 2)[:58]],
    "pypi-token": ["pypi" + "-AgEIcHlwaS5vcmc" + letters(120)],
    "sendgrid-key": ["SG" + "." + letters(22) + "." + letters(43)],
    "sentry-token": ["sntr" + "yu_" + HEX[:64]],
    "vendor-token": ["gsk" + "_" + letters(52), "dp" + ".pt." + letters(43), "NR" + "AK-" + UPPER[:27]],
    "shopify-token": ["shp" + "at_" + HEX[:32]],
    "slack-token": ["xo" + "xb-123456789012-123456789012-" + letters(24), "xa" + "pp-1-A0123456789-" + HEX[:40]],
    "stripe-key": ["sk" + "_live_" + letters(24), "rk" + "_test_" + letters(24), "whs" + "ec_" + letters(32)],
    "telegram-token": [":" + "AA" + letters(33)],
    "twilio-key": ["SK" + HEX[:32]],
    "vault-token": ["hv" + "s." + letters(24)],
}
TOKEN_CASES = [(kind, token) for kind, tokens in TOKENS.items() for token in tokens]
SECRET = "hun" + "ter2!x"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYzzzzzzzKEY"

# A line, and it with `{}` for the secret, which is what stands in the middle.
NAMED = {
    "password={}": SECRET,
    "password: {}": SECRET,
    "PASSWORD={} next=1": SECRET,
    "passwd = {}": SECRET,
    "db_pass: {}": SECRET,
    "pwd={};Database=x": SECRET,
    "my_secret={}": SECRET,
    "GITHUB_TOKEN={}": SECRET,
    "GITHUB_TOKEN_2={}": SECRET,
    "githubToken: {}": SECRET,
    "api_key={}": SECRET,
    "apikey: {}": SECRET,
    "X-Api-Key: {}": SECRET,
    "access_key={}": SECRET,
    "client_secret={}&grant_type=x": SECRET,
    "private_key={}": SECRET,
    "credentials: {}": SECRET,
    "passphrase='{}'": "correct horse battery staple",
    'password="{}" user="bob"': 'it is "quoted"'.replace('"', '\\"'),
    '{{"token": "{}", "user": "bob"}}': SECRET,
    '{{"m": "{{\\"password\\": \\"{}\\", \\"b\\": 1}}"}}': SECRET,
    '{{"msg": "password={}\\nnext"}}': SECRET,
    "{{token: {}, user: bob}}": SECRET,
    "login(token={}, user=bob)": SECRET,
    "'token' => '{}',": SECRET,
    'settings["token"] = "{}"': SECRET,
    "token := {}": SECRET,
    "token%3D{}": "abcdef123",
    "https://host/path?token={}&page=2": "abcdef123",
    "<db:password>{}</db:password>": SECRET,
    '{{"name": "DB_PASSWORD", "value": "{}"}}': SECRET,
    "\x1b[36mtoken\x1b[0m=\x1b[35m{}\x1b[0m": SECRET,
    "SHELL=/bin/sh\x00TOKEN={}\x00HOME=/root": SECRET,
    "tool --password {} --verbose": SECRET,
    "tool --token={} --verbose": SECRET,
    "['tool', '--api-key', '{}']": SECRET,
    "curl -u admin:{} https://host": SECRET,
    "Authorization: Bearer {}": letters(20),
    "authorization: Basic {}": "dXNlcjpwYXNzd29yZA==",
    '"Authorization": "token {}"': letters(20),
    "curl -H 'Authorization: Bearer {}' https://host": letters(20),
    "proxy-authorization: Negotiate {}": letters(20),
    "sent Bearer {} to host": letters(20),
    "Set-Cookie: {}": "sid=" + letters(20) + "; Path=/",
    '{{"auths": {{"host": {{"auth": "{}"}}}}}}': "dXNlcjpwYXNzd29yZA==",
    "//registry.npmjs.org/:_authToken={}": letters(36),
    "aws_secret_access_key = {}": AWS_SECRET,
    '"SecretAccessKey": "{}",': AWS_SECRET,
    "AccountName=x;AccountKey={};EndpointSuffix=core": letters(86) + "==",
}
AROUND = {
    "https://user:{}@host/path": ("url-credentials", "s3cret"),
    "postgres+psycopg2://user:{}@host:5432/db": ("url-credentials", "p@ss#word"),
    "redis://:{}@host": ("url-credentials", "s3cret"),
    "https://x-access-token:{}@github.com/a/b": ("url-credentials", "abcdef"),
    "https://{}@sentry.example/1": ("url-credentials", HEX[:32]),
    "https://hooks.slack.com/services/{}": ("slack-webhook", "T00000000/B00000000/" + letters(24)),
    "https://discord.com/api/webhooks/{}": ("webhook", "123456789012345678/" + letters(68)),
    "https://bucket/object?X-Amz-Signature={}": ("signature", HEX[:64]),
    "https://x.blob.example/y?sv=1&sig={}&se=2": ("signature", letters(40) + "%3D"),
}
LINE_CASES = [
    *((f"see {token} there", f"see [redacted:{kind}] there", token) for kind, token in TOKEN_CASES),
    *((line.format(secret), line.format("[redacted:secret]"), secret) for line, secret in NAMED.items()),
    *((line.format(secret), line.format(f"[redacted:{kind}]"), secret) for line, (kind, secret) in AROUND.items()),
]
KEY_KINDS = ("", "RSA ", "EC ", "DSA ", "OPENSSH ", "ENCRYPTED ")

HARMLESS = """\
token: 5 tokens
token: 12345 tokens
tokens: 5000
max_tokens=4096
{"prompt_tokens": 12, "completion_tokens": 40}
commit 3f786850e387550fdab836ed7e6dc881de23001b
key: 3f786850e387550fdab836ed7e6dc881de23001b
cache_key=abcdef123
public_key: ssh-ed25519 AAAA
password:
password:\x20
password: ""
password=''
"password": null, "token": true, "secret": false
password: None
password is hunter2
secretary: Moneypenny
secret::Type
passwordless: yes, really
the bypass: enabled
author: Jane Doe
token = get_token()
token = os.environ["TOKEN"]
token = tokens[0]
login(password=config.password, token=self.token)
def login(token: str, password: str = "x") -> None:
token: Optional[str] = None
password = Column(String)
if token == other_token or token != "x": pass
password: ${{ secrets.PASSWORD }}
password: $PASSWORD
password={password}
export TOKEN=$(cat token)
TOKEN=${TOKEN:-}
token: {{ token }}
token: <your token>
token=%s
password=***
password: ********
password=xxxxxxxx
password: [redacted:secret]
token_file=/run/secrets/token
token: /run/secrets/token
PWD=/work/abcdef
OLDPWD=/work/abcdef
error: --token is required
  --password PASSWORD
SyntaxError: unexpected token: identifier
Invalid token: unexpected end of input
passwd: all authentication tokens updated successfully
Enter passphrase for key '/root/.ssh/id_ed25519':
PASS: tests/test_login.sh
--- PASS: TestLogin (0.00s)
tests/unit/test_token.py::test_secret_key_password PASSED
permissions: {id-token: write}
session id: 0199a5a0-7d1c-7f52-b1f6-01a3ab0e8f0c
task-0123456789abcdef0123456789abcdef
npm_config_registry_of_all_our_packages=1
bearer authentication is required
http://host:8080/a@b
http://localhost:3000?x=a@b.example
ssh://git@github.com/a/b
git@github.com:a/b.git
https://user:$PASSWORD@host
docker run -u 1000:1000 image
docker run --user root:root image
-----BEGIN CERTIFICATE-----
-----BEGIN PUBLIC KEY-----
sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
line 123456: compiling module foo ...
""".splitlines()


def fed(chunks: Iterable[bytes], **known: object) -> bytes:
    redactor = Redactor(**known)  # type: ignore[arg-type]
    return b"".join([*map(redactor.feed, chunks), redactor.flush()])


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def private_key(kind: str = "RSA ", *, lines: int = 20, suffix: str = "") -> str:
    body = "\n".join((MIXED * 2)[at : at + 64] for at in range(lines))
    frame = f"{kind}PRIVATE KEY{suffix}{DASHES}"
    return f"{DASHES}BEGIN {frame}\n{body}\nQm9k=\n{DASHES}END {frame}"


# -------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize(("line", "expected", "_secret"), LINE_CASES)
def test_a_secret_is_replaced_and_what_stands_around_it_stays(line: str, expected: str, _secret: str) -> None:
    assert redact_text(line) == expected


@pytest.mark.parametrize(("kind", "token"), TOKEN_CASES)
@pytest.mark.parametrize("around", ["{}", '"{}"', "\x1b[32m{}\x1b[0m", "a={},b", "\\n{}\\n", "%20{}", "({})", "{}\r"])
def test_a_token_is_known_wherever_it_stands(kind: str, token: str, around: str) -> None:
    assert redact_text(around.format(token)) == around.format(f"[redacted:{kind}]")


@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n2024-01-01 12:00:00 | ", "\\n"])
def test_a_private_key_goes_from_begin_to_end(kind: str, newline: str) -> None:
    text = f"before\n{private_key(kind)}\nafter\n".replace("\n", newline)
    assert redact_text(text) == f"before{newline}[redacted:private-key]{newline}after{newline}"


@pytest.mark.parametrize(
    "key",
    [
        private_key("PGP ", suffix=" BLOCK"),
        private_key("PGP ", suffix=" BLOCK").replace("BLOCK-----\n", "BLOCK-----\nVersion: 1\nComment: x\n\n", 1),
        private_key().replace("KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n", 1),
        private_key("SSH2 ENCRYPTED ").replace(DASHES + "BEGIN", "---- BEGIN").replace(DASHES + "END", "---- END"),
        "Private-Lines: 2\n" + letters(64) + "\n" + letters(64) + "\nPrivate-MAC: " + HEX[:40],
    ],
)
def test_other_kinds_of_private_keys_go_too(key: str) -> None:
    assert redact_text(f"a\n{key}\nb\n") == "a\n[redacted:private-key]\nb\n"


def test_a_private_key_in_json_leaves_the_rest_of_the_line() -> None:
    account = {"type": "service_account", "private_key": private_key("") + "\n", "client_email": "x@example"}
    expected = account | {"private_key": "[redacted:private-key]\n"}
    assert json.loads(redact_text(json.dumps(account))) == expected


def test_a_private_key_in_base64_is_known() -> None:
    encoded = base64.b64encode(private_key().encode()).decode()
    assert redact_text(f"key.pem: {encoded}") == "key.pem: [redacted:private-key]"
    certificate = base64.b64encode(f"{DASHES}BEGIN CERTIFICATE{DASHES}\n{MIXED}".encode()).decode()
    assert redact_text(f"ca.pem: {certificate}") == f"ca.pem: {certificate}"


def test_a_quoted_begin_line_costs_a_few_lines_only() -> None:
    log = "".join(f"log line {number}\n" for number in range(100))
    redacted = redact_text(f"expected {DASHES}BEGIN PRIVATE KEY{DASHES} in file\n{log}")
    assert redacted.startswith("expected [redacted:private-key]log line")
    assert redacted.count("log line") > 100 - QUIET_LINES_MAX - 1


def test_a_key_without_end_swallows_no_more_than_its_bound() -> None:
    body = f"{letters(64)}\n" * 4000
    redacted = redact_text(f"{DASHES}BEGIN PRIVATE KEY{DASHES}\n{body}the end\n")
    assert redacted.endswith("the end\n")
    assert len(body) - KEY_BLOCK_MAX - 200 < len(redacted) < len(body) - KEY_BLOCK_MAX + 200


def test_nothing_of_an_unfinished_key_is_written_at_the_end() -> None:
    assert fed([private_key().encode()[:-10]]) == b"[redacted:private-key]"


def test_two_secrets_on_a_line_are_both_found() -> None:
    assert redact_text(f"secret: token: {SECRET}") == "secret: token: [redacted:secret]"
    assert redact_text(f"password={SECRET} user=x token={SECRET}").count("[redacted:secret]") == 2


def test_a_value_of_a_name_within_a_value_is_hidden_too() -> None:
    assert "horse" not in redact_text("token=token='correct horse battery' x")


def test_the_more_telling_kind_wins() -> None:
    kind, token = "github-token", TOKENS["github-token"][0]
    assert redact_text(f"password={token}") == f"password=[redacted:{kind}]"


# ------------------------------------------------------------------------------------------- what is no secret


@pytest.mark.parametrize("line", HARMLESS)
def test_what_is_no_secret_stays(line: str) -> None:
    assert redact_text(line) == line


@settings(deadline=None)
@given(st.text("abcdefghij \t.,;_-/()[]{}<>0123456789\r\n\0äß€😀", max_size=300))
def test_text_without_secrets_stays(text: str) -> None:
    assert redact_text(text) == text


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_bytes_pass_unchanged(data: bytes) -> None:
    assert fed([data]) == data


def test_every_byte_passes_around_a_secret() -> None:
    every = bytes(range(256))
    secret = f" password={SECRET} ".encode()
    assert fed([every + secret + every]) == every + b" password=[redacted:secret] " + every


# ---------------------------------------------------------------------------------------------------- chunks

STREAM = "".join(f"{line}\n" for line, _, _ in LINE_CASES) + f"{private_key()}\nafter\n"


@pytest.mark.parametrize(("line", "expected", "_secret"), LINE_CASES)
def test_a_secret_split_anywhere_is_found(line: str, expected: str, _secret: str) -> None:
    data, whole = f"{line}\n".encode(), f"{expected}\n".encode()
    assert all(fed([data[:at], data[at:]]) == whole for at in range(len(data) + 1))
    assert fed(pieces(data, 1)) == whole


def test_a_private_key_split_anywhere_is_found() -> None:
    data, whole = f"a\n{private_key(lines=3)}\nb".encode(), b"a\n[redacted:private-key]\nb"
    assert all(fed([data[:at], data[at:]]) == whole for at in range(len(data) + 1))
    assert fed(pieces(data, 1)) == whole


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 65536])
def test_the_size_of_chunks_does_not_matter(size: int) -> None:
    data = STREAM.encode()
    assert fed(pieces(data, size)) == fed([data])


SOUP = st.lists(
    st.one_of(
        st.sampled_from([token for _, token in TOKEN_CASES]),
        st.sampled_from([line for line, _, _ in LINE_CASES]),
        st.sampled_from(["\n", " ", "\r", "\0", '"', "'", "=", ": ", "[redacted:secret]", "token", "password", "key"]),
        st.sampled_from([private_key(lines=2), private_key()[:90], private_key()[-60:], SECRET, "\x1b[0m", "\\n"]),
        st.text(max_size=5),
    ),
    max_size=12,
).map("".join)
CUTS = st.lists(st.integers(0, 4000), max_size=8)


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@settings(max_examples=300, deadline=None)
@given(SOUP, CUTS)
def test_chunks_never_show(text: str, cuts: list[int]) -> None:
    data = text.encode()
    known = {"values": [SECRET.encode()], "patterns": [r"key.{3}", "^a|b$"]}
    assert fed(cut(data, cuts), **known) == fed([data], **known)
    assert fed(pieces(data, 1), **known) == fed([data], **known)


@settings(max_examples=300, deadline=None)
@given(SOUP)
def test_redacting_again_changes_nothing(text: str) -> None:
    known = {"values": [SECRET.encode(), b"secret"], "patterns": [r"key\w{3}"]}
    once = fed([text.encode()], **known)
    again = Redactor(**known)  # type: ignore[arg-type]
    assert again.feed(once) + again.flush() == once
    assert again.count == 0


@settings(deadline=None)
@given(CUTS)
def test_the_count_does_not_depend_on_chunks(cuts: list[int]) -> None:
    whole, parts = Redactor(), Redactor()
    whole.feed(STREAM.encode())
    for chunk in cut(STREAM.encode(), cuts):
        parts.feed(chunk)
    assert whole.count == parts.count >= len(LINE_CASES) + 1


def test_complete_lines_are_not_held_back() -> None:
    redactor = Redactor()
    assert redactor.feed(b"one\ntwo\nthr") == b"one\ntwo\n"
    assert redactor.feed(b"ee\n") == b"three\n"
    assert redactor.flush() == b""


def test_a_redactor_can_be_used_again_after_flush() -> None:
    redactor = Redactor()
    redactor.feed(f"{DASHES}BEGIN PRIVATE KEY{DASHES}\n".encode())
    redactor.flush()
    assert redactor.feed(b"line\n") == b"line\n"


# ------------------------------------------------------------------------------------------------- long lines


@pytest.mark.parametrize(
    "line", [line for line, _, _ in LINE_CASES[::4]] + [line.format(s) for line, s in NAMED.items()]
)
def test_no_cut_of_a_long_line_tears_a_secret(line: str) -> None:
    secret = next(secret for each, _, secret in LINE_CASES if each == line)
    for edge in (LINE_MAX - SECRET_MAX, LINE_MAX):
        for shift in range(-1, len(line) + 2, 3):
            data = (". " * LINE_MAX)[: edge - shift] + line + " ." * SECRET_MAX
            redacted = fed(pieces(data.encode(), 50_000))
            assert secret.encode() not in redacted
            assert redacted.count(b"[redacted:") == 1, (edge, shift)


@pytest.mark.parametrize("size", [1000, 4096, 65536, 300_000])
def test_chunks_of_long_lines_never_show(size: int) -> None:
    chooser = random.Random(7)
    words = [*(line for line, _, _ in LINE_CASES), "x" * 3000, " some text " * 50, private_key().replace("\n", "\\n")]
    data = " ".join(chooser.choice(words) for _ in range(600)).encode()
    redacted = fed(pieces(data, size))
    assert redacted == fed([data])
    assert not any(token.encode() in redacted for _, token in TOKEN_CASES)


def test_a_private_key_across_a_cut_goes_whole() -> None:
    key = private_key(lines=100).replace("\n", "\\n")
    for shift in range(0, len(key), 97):
        redacted = redact_text(". " * ((LINE_MAX - shift) // 2) + key + " ." * LINE_MAX)
        assert redacted.count("[redacted:private-key]") == 1
        assert redacted.strip(". ") == "[redacted:private-key]"


def test_a_value_longer_than_a_line_can_be_goes_whole() -> None:
    long = letters(200) * 2000
    assert redact_text(f"a password={long} after") == "a password=[redacted:secret] after"
    assert redact_text(f'{{"password": "{long}", "b": 1}}') == '{"password": "[redacted:secret]", "b": 1}'


def test_a_long_value_of_the_environment_goes_whole() -> None:
    value = "".join(random.Random(3).choices(MIXED + " ", k=5 * SECRET_MAX + 3)).strip()
    for shift in range(0, 2 * SECRET_MAX, 1777):
        text = "." * (LINE_MAX - shift) + " " + value + " " + "." * LINE_MAX
        redacted = fed([text.encode()], values=secret_values({"MY_TOKEN": value}))
        assert not any(value[at : at + 32].encode() in redacted for at in range(0, len(value), 32))


# ----------------------------------------------------------------------------------------------- environment


SECRET_NAMES = """\
TOKEN GITHUB_TOKEN GH_PAT githubToken npm_config__authToken MY_SECRET SECRETS PASSWORD PGPASSWORD DB_PASSWD
DB_PASS MYSQL_PWD API_KEY OPENAI_APIKEY PRIVATE_KEY SSH_PRIVATE_KEY_2 CREDENTIALS AWS_CREDENTIAL
AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AZURE_STORAGE_KEY BASIC_AUTH AUTH SENTRY_DSN PASSPHRASE
DB_CONNECTION_STRING SESSION_COOKIE OTEL_EXPORTER_OTLP_HEADERS OTEL_EXPORTER_OTLP_TRACES_HEADERS
"""
PLAIN_NAMES = """\
KEYBOARD KEYBOARD_LAYOUT SSH_AUTH_SOCK AUTHOR GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL TOKENIZERS_PARALLELISM
MAX_TOKENS PWD OLDPWD PATH HOME MONKEY SECRETARY PASSWORD_FILE TOKEN_URL TOKEN_TYPE SSH_PUBLIC_KEY BYPASS
XAUTHORITY COMPASS LANG
"""


def test_secret_names_are_known() -> None:
    for name in SECRET_NAMES.split():
        assert SECRET.encode() in secret_values({name: SECRET}), name


def test_other_names_are_not() -> None:
    assert secret_values(dict.fromkeys(PLAIN_NAMES.split(), SECRET)) == ()


@pytest.mark.parametrize(
    "value", ["", "abc", "12345", "true", "false", "postgres", "/run/secrets/token", "~/.ssh/id", "./token", "required"]
)
def test_values_that_are_no_secrets_stay(value: str) -> None:
    assert secret_values({"MY_TOKEN": value}) == ()


def test_values_come_longest_first() -> None:
    values = secret_values({"A_TOKEN": "abcdefgh", "B_TOKEN": "abcdefghijklmnop"})
    assert [len(value) for value in values] == sorted(map(len, values), reverse=True)


def test_a_password_in_a_url_is_a_secret_whatever_the_name() -> None:
    values = secret_values({"DATABASE_URL": "postgres://user:s3cr3tpass@host/db"})
    assert b"s3cr3tpass" in values
    assert not any(b"host" in value for value in values)


AWKWARD = 'pa"ss\\w/rd +ä&'


@pytest.mark.parametrize(
    "spelled",
    [
        AWKWARD,
        json.dumps(AWKWARD, ensure_ascii=False),
        quote(AWKWARD),
        quote(AWKWARD, safe=""),
        base64.b64encode(AWKWARD.encode()).decode(),
        base64.b64encode(f"{AWKWARD}\n".encode()).decode(),
        base64.urlsafe_b64encode(AWKWARD.encode()).decode(),
        base64.b64encode(f"user:{AWKWARD}".encode()).decode(),
        base64.b64encode(f"user1:{AWKWARD}".encode()).decode(),
        base64.b64encode(f"user12:{AWKWARD}, x".encode()).decode(),
    ],
)
def test_a_value_is_known_in_every_spelling(spelled: str) -> None:
    redacted = redact_text(f"a {spelled} b", values=secret_values({"MY_PASSWORD": AWKWARD}))
    assert "[redacted:environment]" in redacted
    assert len(redacted) < len("a [redacted:environment] b") + 20


def test_a_long_value_is_known_in_wrapped_base64() -> None:
    value = letters(180)
    wrapped = base64.encodebytes(value.encode()).decode()
    redacted = redact_text(wrapped, values=secret_values({"MY_TOKEN": value}))
    assert not re.search(r"[A-Za-z0-9+/]{24}", redacted.replace("[redacted:environment]", ""))


def test_a_value_of_several_lines_is_known_line_by_line() -> None:
    value = f"first line of it\n{letters(40)}\r\n  indented line\nshort\n"
    values = secret_values({"MY_SECRET": value})
    text = f"x first line of it\n> {letters(40)} <\nindented line\nshort\n"
    expected = "x [redacted:environment]\n> [redacted:environment] <\n[redacted:environment]\nshort\n"
    assert redact_text(text, values=values) == expected
    assert redact_text(json.dumps(value), values=values) == '"[redacted:environment]\\n"'


def test_lines_of_a_key_in_the_environment_are_known_without_its_frame() -> None:
    key = private_key()
    redacted = redact_text("\n".join(key.splitlines()[3:9]), values=secret_values({"SSH_KEY": key}))
    assert set(redacted.splitlines()) == {"[redacted:environment]"}


def test_given_values_with_newlines_or_without_bytes_do_no_harm() -> None:
    assert fed([b"one line of it, x\n"], values=[b"one line of it\nx\n", b""]) == b"[redacted:environment], x\n"


def test_values_that_overlap_are_both_hidden() -> None:
    assert fed([b"abcdefghijkl"], values=[b"abcdefgh", b"efghijkl"]) == b"[redacted:environment]"


# -------------------------------------------------------------------------------------------- users' patterns


def test_patterns_are_replaced_whole() -> None:
    redactor = Redactor(patterns=[r"corp-\d+", r"(?i)internal (\w+)"])
    assert redactor.feed(b"corp-123 and INTERNAL name.\n") == b"[redacted:pattern] and [redacted:pattern].\n"
    assert redactor.count == 2


def test_patterns_see_characters_and_keep_other_bytes() -> None:
    data = "ä€ [grün] \udcff ö".encode("utf-8", "surrogateescape")
    expected = "ä€ [redacted:pattern]\udcff ö".encode("utf-8", "surrogateescape")
    assert fed([data], patterns=[r"\[\w+\] "]) == expected


def test_patterns_see_one_line() -> None:
    assert redact_text("a\nb\nab\n", patterns=[r"a\s*b"]) == "a\nb\n[redacted:pattern]\n"
    assert redact_text("ab\nab\n", patterns=["^a"]) == "[redacted:pattern]b\n[redacted:pattern]b\n"


def test_a_pattern_that_matches_nothing_changes_nothing() -> None:
    assert redact_text("abc\n", patterns=["x*"]) == "abc\n"


def test_a_pattern_cannot_hide_a_secret_from_the_rules() -> None:
    token = TOKENS["github-token"][0]
    assert redact_text(f"{token} x", patterns=[token[:6]]) == "[redacted:github-token] x"
    assert redact_text(f"token={SECRET};sig=ab", patterns=[r"token=\S+;sig=\w+"]) == "[redacted:pattern]"


def test_a_pattern_without_end_ends() -> None:
    assert redact_text("a" * 100, patterns=[r"(?:^|(?<=\]))a"]).startswith("[redacted:pattern]")


# ------------------------------------------------------------------------------------------------------ text


def test_text_may_hold_anything() -> None:
    assert redact_text("") == ""
    assert redact_text("ä \ud800 \udcff password=" + SECRET).endswith(" password=[redacted:secret]")


# ------------------------------------------------------------------------------------------- speed and memory

ADVERSARIAL = [
    *(
        "a",
        ":",
        "=",
        "{",
        "\\",
        "\n",
        "\0",
        "--",
        "://",
        "://a:",
        "://a:b",
        "://a:b@",
        "ey" + "J",
        "sk-",
        "xox",
        "SG.",
        ":AA",
    ),
    *("ey" + "J" + "a" * 20 + ".", "AK" + "IA", "gh" + "p_", DASHES + "BEGIN", f"{DASHES}BEGIN PRIVATE KEY{DASHES}"),
    *(f"{DASHES}BEGIN A PRIVATE KEY{DASHES}{DASHES}END A PRIVATE KEY{DASHES}", "token=", "token: ", "token:token "),
    *('password="', "password='a", "token=${", "token=<a ", "token=none,", "token=,a", "token=,,,", "token=self.a"),
    *(
        "--a-",
        "--token ",
        "api_key",
        "api_key=a.",
        "key",
        "token \t",
        "\x1b[0m",
        "token\x1b[0m",
        "cookie: a",
        "bearer a",
    ),
    *("-u a:", "sig=a", "[redacted:secret]", "[redacted:", "<password>", "token>aaaa", 'token","value"', "token=a" * 3),
    *("a" * 17 + " ", "token=abcdefg\n", "authorization: basic ", "hooks.slack.com/services/", "password\\\\", "$a"),
]


@pytest.mark.parametrize("unit", ADVERSARIAL)
def test_no_input_takes_more_than_linear_time(unit: str) -> None:
    data = (unit.encode() * (1_000_000 // len(unit) + 1))[:1_000_000]
    started = time.process_time()
    fed(pieces(data, 65536), values=[SECRET.encode()])
    assert time.process_time() - started < 5


def test_plain_logs_pass_fast() -> None:
    data = b"".join(b"line %d: compiling module foo ...\n" % number for number in range(300_000))
    started = time.process_time()
    assert fed(pieces(data, 65536)) == data
    assert len(data) / (time.process_time() - started) > 10e6  # several times that on an idle machine


@pytest.mark.parametrize(
    ("unit", "peak_max"),
    [
        *((unit, 12 * LINE_MAX) for unit in ("a", "line of text\n", letters(40) + " ", f"{letters(64)}\n")),
        (f"x password={SECRET}\n", 16 * LINE_MAX),
        (f"x password={SECRET} ", 64 * LINE_MAX),  # nothing but secrets, and no end of the line: every one is noted
    ],
)
def test_memory_is_bounded(unit: str, peak_max: int) -> None:
    redactor, chunk = Redactor(), (unit.encode() * (LINE_MAX // len(unit) + 1))[:LINE_MAX]
    redactor.feed(chunk)
    tracemalloc.start()
    for _ in range(16):
        redactor.feed(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < peak_max
