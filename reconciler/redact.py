"""Secrets out of output: every byte a stage writes passes here before the first write to disk.

A secret is known by its own start (`ghp_...`), by what stands before it (`password=...`, `://user:...@`), or exactly,
as a value of the environment. All three look at the text as it was written, and what they find is united before
anything is replaced, so that one cannot hide a secret from another.

What is judged are whole blocks of lines, because searching a block for a literal runs at the speed of memory. Where
the input was cut into chunks never shows: lines are joined first, and a line that is too long for that is cut at places
that follow from its own bytes. Every pattern takes linear time, whatever it meets.
"""

from __future__ import annotations

import re
from base64 import b64encode
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache

from reconciler.model import Redact, Rule
from reconciler.rules import Find, Rules, unnamed
from reconciler.values import frozen

BLOCK_MAX = 16 * 1024
"""How much is judged at once, if that holds complete lines."""
LINE_MAX = 64 * 1024
"""The most that is held back until a newline comes."""
SECRET_MAX = 8 * 1024
"""How much of a cut line is held back, so that a secret across the cut is seen whole. The longest of known formats,
tokens full of claims and keys on one line, take 2 to 4 KiB; longer values are searched for in pieces."""
KEY_BLOCK_MAX = 64 * 1024
"""How much a private key without END may swallow. RSA with 16384 bits takes 13 KB, PGP with many subkeys 20 KB."""
QUIET_LINES_MAX = 8
"""How many lines in a row without base64 end a private key: its BEGIN was only quoted, or its END was lost. A key has
fewer, its headers and the short last line."""
RUN_MIN = 16
"""Every token has at least that many letters, digits, `_` and `-` in a row."""
RUN_LEAD = 8
"""How far before them its prefix may start."""
NAME_MAX = 128
"""The most that a name takes with what joins it to its value."""
AROUND_MAX = 16
"""How far a rule looks around what it matches: `api_` decides about `key`, `@` ends a password in a URL."""
VALUE_MIN = 6
VALUE_LINE_MIN = 8
ROUNDS_MAX = 8
"""A replacement can uncover what stood behind it, so what was redacted is looked at again; patterns of users could
find something for ever."""


@frozen
class Named:
    """A secret that tells by what stands `before` it. Both patterns see lower case.

    The last group of `secret` is the secret, else its whole match. `before` starts with the letters of `word`: where
    they are not, there is nothing to compile and to search.
    """

    kind: str
    word: bytes
    before: bytes
    secret: bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Token:
    """A secret that tells by its own start: one of `prefixes`, and then what makes `pattern` match.

    The last group is the secret; a match without a group says that up to its end there is none.
    """

    kind: str
    prefixes: tuple[str, ...]
    pattern: bytes


def _named(kind: str, before: str, secret: str) -> Named:
    letters = re.match(r"[a-z:/-]+(?![?*{|])", before)
    assert letters is not None, before
    return Named(kind=kind, word=letters[0].encode(), before=before.encode(), secret=secret.encode())


def _token(kind: str, prefixes: str, rest: str) -> Token:
    words = prefixes.split()
    pattern = f"((?:{'|'.join(map(re.escape, words))}){rest})"
    return Token(kind=kind, prefixes=tuple(words), pattern=pattern.encode())


_compiled = cache(re.compile)
"""Most output meets few kinds of secrets; to compile for all of them would double the time a worker takes to start."""

# -------------------------------------------------------------------------------------- what is no secret

_END = r"""(?=[.:!?]*(?:[\s"'`,;&)\]}<>|\\\x00\x1b]|\Z))"""
"""A word ends here."""

_PLAIN = (
    "always|any|argument|async|await|basic|bearer|bool|boolean|bytes|cannot|const|credentials|default|development"
    "|digest|disabled|empty|enabled|expired|false|flag|for|from|function|hidden|include|incorrect|inherit|int"
    "|integer|invalid|is|key|lambda|localhost|masked|missing|must|never|new|nil|none|not|null|number|oauth|oauth2"
    "|object|off|omit|omitted|option|optional|password|postgres|production|read|redacted|removed|required|requires"
    "|same-origin|secret|set|should|staging|str|string|testing|text|to|token|true|undefined|unknown|unset|valid|was"
    "|with|write|yes"
)
"""What stands behind `password:`, and even in `DB_PASSWORD`, in every other log: to hide it would hide the log."""

_ROOTS = "bin|builds?|dev|etc|home|mnt|nix|opt|private|proc|root|run|srv|sys|tmp|usr|users|var|workspace"
_PATH = rf"(?:~|\.{{1,2}}|/(?:{_ROOTS}))/[\w./@+-]*"

_OBJECTS = (
    "app|args|cfg|client|cls|conf|config|context|ctx|data|document|env|environ|github|inputs|kwargs|matrix|options|opts"
    "|os|params|process|props|req|request|res|response|secrets|self|settings|steps|sys|this|user|vars|window"
)
_VERBS = "create|decode|encode|fetch|find|generate|get|getpass|input|load|make|new|open|quote|read|repr"

_MASKED = r"\[redacted:[a-z-]+\]|\*{3}|\.{3}|\$[{(]|\{\{|\$(?:env:)?[a-z_]+\d?" + _END
"""What stands for a secret: our replacement, a mask, a variable of a shell or a template."""
_NO_SECRET = "|".join(
    (
        _MASKED,
        rf"(?:{_PLAIN}|x{{3,}}){_END}",
        _PATH + _END,
        r"[a-z][a-z0-9+.-]*://",  # what is secret in a URL has its own rule
        r"%\(|%[a-z_]+%|%[a-z]" + _END,
        r"[#@]?\{[^\s{}\"']*\}" + _END,
        r"<[\w .-]+>" + _END,
        rf"(?:{_OBJECTS})(?:\.[a-z_]+)+{_END}",
        rf"(?:[a-z]+[_.][a-z_.]*|(?:{_VERBS})[a-z]*)\(|[a-z]{{3,}}\([a-z_., ]*\){_END}",
        r"[a-z_.]+\[[\"']?[\w-]{0,40}[\"']?\]",
    )
)

# --------------------------------------------------------------------------- what tells by what stands before

_COLOUR = r"(?:\x1b\[[\d;]*m)*+"
_SPACE = r"[ \t]*+"
_QUOTE = r"\\*[\"'`]"
_SCHEME = r"(?:bearer|basic|token|apikey|negotiate|ntlm)[ \t]+"
_VALUE = (
    rf"(?:({_QUOTE})(?:{_SCHEME})?+)?+(?!{_NO_SECRET})"
    r"(?=(?(1)[^\"'`\x00\x1b\n]{4}|[^\s\"'`\x00\x1b]{4}))"
    r"((?(1)(?:(?!\1)(?:\\.|[^\\\n]))++"  # up to the same quote
    # Punctuation belongs to the value unless it closes something or another `name=` follows.
    r"|(?:[^\s\"'`,;&)\]}<\\\x00\x1b]++|[,;&)\]}](?![\s,;)\]}\"'`\x00\x1b]|\Z|[\w.-]{1,64}[=:])"
    r"|<(?!/)|\\(?![\"'`nrt\\])|[\"'`](?=\w))++))"
)

_KEY_OF = (
    "access|account|api|app|auth|client|consumer|deploy|encryption|license|master|private|secret|service|shared|signing"
    "|ssh|storage|subscription|webhook"
)
_KEY = "|".join(f"(?<={owner}key)|(?<={owner}[ _.-]key)" for owner in _KEY_OF.split("|"))
_PASSWORDS = (r"pass(?:word|wd|phrase|code|(?<=[_-]pass))", "pwd(?<![a-z]pwd)(?!=/)")
_OTHERS = (
    "auth(?<![a-z]auth)(?:orization)?",
    "credentials?",
    f"key(?:{_KEY})(?:[_-]?base)?",
    "secret",
    "token(?<!nexpected token)(?<!://token)(?<!://x-access-token)",  # a URL has its own rule
)
_SUFFIX = r"(?:[_-]?(?:\d{1,3}|b64|base64|dev|hash|prod|production|staging|test|value))?+"
_SEPARATOR = (
    rf"{_COLOUR}(?:(?:{_QUOTE}\]?+)?+{_COLOUR}{_SPACE}(?:=>|:=|:(?!:)|=(?!=)|%3[ad]){_SPACE}{_COLOUR}"
    r"|>(?=[^<\n]{4,256}</)"  # <password>x</password>
    rf"|{_QUOTE}(?:,{_SPACE}|[ \t]++)(?:{_QUOTE})?value(?:{_QUOTE})?{_SPACE}[:=]{_SPACE})"  # {"name": x, "value": y}
)
_PROSE = r"(?<=[ \t])(?:[a-z]{1,14}|\d{1,6}),? [a-z(\[<]"
"""`token: expected a number` is words. What stands behind `password:` has no such excuse: it may be words."""
_OPTION = (
    rf"--(?:[a-z]{{1,20}}-){{0,3}}(?:auth|credentials?|(?:{_KEY_OF})-?key|pass(?:code|phrase|wd|word)?|secret|token)"
    rf"(?:[ \t]++|{_QUOTE},{_SPACE})(?!-)"
)

_NAMED = (
    *(_named("secret", f"{name}{_SUFFIX}{_SEPARATOR}(?:{_SCHEME})?+", _VALUE) for name in _PASSWORDS),
    *(_named("secret", f"{name}{_SUFFIX}{_SEPARATOR}(?:{_SCHEME}|(?!{_PROSE}))", _VALUE) for name in _OTHERS),
    _named("secret", _OPTION, _VALUE),
    _named("secret", r"bearer[ \t]+", r"(?=[a-z_.~+/-]{0,64}\d|\S{20})[\w.~+/-]{10,}={0,2}"),
    _named("secret", rf"cookie2?(?:{_QUOTE})?:[ \t]*(?:{_QUOTE})?", r"[\w.-]+=[^\r\n\"']{8,}"),
    # `curl -u user:password`: with a digit or a sign, because `docker -u user:group` has none.
    _named(
        "secret",
        rf"-u(?:ser)?[ =](?:{_QUOTE})?[^\s:\"']{{1,128}}:",
        rf"(?!{_MASKED}|\d+{_END})(?=[^\s\"'/]*[^\s\"'a-z/])[^\s\"'/]{{6,}}",
    ),
    # A port is no password. A password may hold `@` and even `/`, but not the start of the next URL.
    _named(
        "url-credentials",
        r"://[^\s/:@\"'<>]{0,256}:",
        rf"(?!{_MASKED}|\$[a-z_]+@|\d{{1,5}}(?:[^\w@]|\Z))((?:[^\s\"'<>@:]|:(?!//))++(?:@[^\s/@\"'<>]*)*)@",
    ),
    _named("url-credentials", "://", r"((?=[a-z_-]{0,64}\d)[\w-]{20,})@"),
    _named("signature", "sig(?:nature)?=", r"[\w%+/-]{20,}=*"),
    _named("slack-webhook", r"hooks\.slack\.com/(?:services|triggers|workflows)/", r"[\w/+-]{20,}"),
    _named("webhook", "/api/webhooks/", r"\d+/[\w-]{20,}"),
    _named("mailgun-key", "key-", "[0-9a-f]{32,}"),
)

# ------------------------------------------------------------------------------- what tells by its own start

_WIDE = "[A-Za-z0-9_-]{20,}"
_DENSE = "[A-Za-z0-9]{30,}"
_NO_WORD = r"(?:(?<![a-z]sk-)|(?<=[\d\[]msk-)|(?<=\\[nrt]sk-))"
"""`task-` and `disk-` are no keys, but the end of a colour and an escaped newline are no letters before one."""

_TOKENS = (
    _token("anthropic-key", "sk-", f"ant-{_WIDE}"),
    _token("atlassian-token", "ATATT3", "[A-Za-z0-9_=-]{24,}"),
    _token("aws-access-key", "AKIA ASIA", "[A-Z0-9]{16,}"),
    _token("bitbucket-token", "ATBB ATCTT3", "[A-Za-z0-9_=-]{24,}"),
    _token("databricks-token", "dapi", "[0-9a-f]{32,}(?:-[0-9])?"),
    _token("digitalocean-token", "dop_v1_ doo_v1_ dor_v1_", "[0-9a-f]{32,}"),
    _token("docker-token", "dckr_pat_ dckr_oat_", _WIDE),
    _token("github-token", "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_", r"[A-Za-z0-9_]{20,}(?:\.[\w-]+)*+"),
    _token(
        "gitlab-token",
        "glpat- gldt- glrt- glrtr- glptt- glcbt- glft- glsoat- glagent- glimt- gloas- glffct- GR1348941",
        r"[A-Za-z0-9_-]{16,}(?:\.[\w-]+)*+",
    ),
    _token("google-api-key", "AIza", "[A-Za-z0-9_-]{35,}"),
    _token("google-token", "ya29. GOCSPX-", _WIDE),
    _token("grafana-token", "glsa_ glc_", "[A-Za-z0-9_+/=]{24,}"),
    _token("huggingface-token", "hf_", _DENSE),
    _token("jwt", "eyJ", r"[\w-]{13,}+\.[\w-]{5,}+(?:\.[\w-]*+){1,3}+)|(?:eyJ[\w-]*+"),
    _token("npm-token", "npm_", _DENSE),
    _token("openai-key", "sk-", f"(?:(?:proj|svcacct|admin|or|lf)-{_WIDE}|{_NO_WORD}{_DENSE})"),
    _token("private-key", "AGE-SECRET-KEY-1", "[0-9A-Z]{50,}"),
    # `-----BEGIN ` in base64, unless a certificate or something public begins.
    _token("private-key", "LS0tLS1CRUdJTi", "(?!BDRVJU|BQVUJM|BQR1AgUFVC)[A-Za-z0-9+/]{20,}={0,2}"),
    _token("pypi-token", "pypi-Ag", "[A-Za-z0-9_-]{30,}"),
    _token("sendgrid-key", "SG.", r"[\w-]{16,}+\.[\w-]{16,}"),
    _token("sentry-token", "sntrys_ sntryu_", "[A-Za-z0-9_+/=]{32,}"),
    _token("shopify-token", "shpat_ shpca_ shppa_ shpss_", "[0-9A-Fa-f]{32,}"),
    _token("slack-token", "xox", r"[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{12,}"),
    _token("slack-token", "xapp-", "[A-Za-z0-9-]{20,}"),
    _token("stripe-key", "sk_live_ sk_test_ rk_live_ rk_test_", "[A-Za-z0-9]{10,}"),
    _token("stripe-key", "whsec_", "[A-Za-z0-9]{24,}"),
    _token("telegram-token", ":AA", "[A-Za-z0-9_-]{32,}"),
    _token("twilio-key", " ".join(f"SK{digit:x}" for digit in range(16)), "[0-9a-f]{31,}"),
    _token("vault-token", "hvs. hvb. hvr.", _WIDE),
    _token("vendor-token", "dp.pt. dp.st. dp.ct. gsk_ lin_api_ ntn_ pplx- pul- r8_ rubygems_ sbp_ xai-", _DENSE),
    _token("vendor-token", "figd_ HRKU- NRAK- PMAK- pscale_pw_ pscale_tkn_ sq0atp- sq0csp-", _WIDE),
    _token("vendor-token", "fm1_ fm2_ ops_eyJ", "[A-Za-z0-9_+/=-]{60,}"),
)


def _by_prefix(tokens: Iterable[Token]) -> dict[bytes, tuple[Token, ...]]:
    """Return the tokens that each prefix, in lower case, can start."""
    found: dict[bytes, tuple[Token, ...]] = {}
    for token in tokens:
        for prefix in token.prefixes:
            key = prefix.lower().encode()
            found[key] = (*found.get(key, ()), token)
    return found


def _trie(words: Iterable[str]) -> str:
    """Return a pattern for any of `words` that looks at no letter twice."""
    rests: dict[str, list[str]] = {}
    for word in sorted(words):
        rests.setdefault(word[:1], []).append(word[1:])
    if "" in rests:
        return ""
    branches = [re.escape(letter) + _trie(rest) for letter, rest in rests.items()]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


_BY_PREFIX = _by_prefix(_TOKENS)
_PREFIX = _trie(prefix.decode() for prefix in _BY_PREFIX).encode()
_RUN = b"a" * RUN_MIN
_SHAPE = re.sub(rb"[^a]", b" ", re.sub(rb"[A-Za-z0-9_-]", b"a", bytes(range(256))))
"""What `bytes.translate` takes to make every letter of a token an `a` and all else a space."""

# ------------------------------------------------------------------------------------------- private keys

_KEY_WORDS = (b"PRIVATE KEY", b"Private-Lines: ")
_KEY_BEGIN = rb"-{4,5} ?BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)? ?-{4,5}|Private-Lines: \d+"
_KEY_END = rb"-{4,5} ?END (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)? ?-{4,5}|Private-MAC: [0-9a-f]+"
_KEY_BODY = rb"[A-Za-z0-9+/=]{24}"


@dataclass(slots=True)
class KeyBlock:
    """A private key that has begun and not ended."""

    swallowed_bytes: int = 0
    quiet_lines: int = 0

    def ends_with(self, line: bytes) -> bool:
        """Count `line` and return whether it is the last one."""
        self.swallowed_bytes += len(line)
        self.quiet_lines = 0 if _compiled(_KEY_BODY).search(line) else self.quiet_lines + 1
        return self.swallowed_bytes >= KEY_BLOCK_MAX or self.quiet_lines >= QUIET_LINES_MAX


# ---------------------------------------------------------------------------------------------- redaction

_MARK = re.compile(rb"\[redacted:([a-z][a-z0-9-]*)\]")
_REST_OF_VALUE = re.compile(rb"[^\s\"'`\x00\x1b]*")


class Redactor:
    """One stream of output, fed in any pieces. It never holds more than `LINE_MAX` bytes and what it is fed."""

    def __init__(
        self,
        *,
        patterns: Sequence[str] = (),
        values: Sequence[bytes] = (),
        mode: str = "enforce",
        rules: Sequence[Rule] = (),
        allow: Sequence[str] = (),
        bounded: AbstractContextManager[object] | None = None,
    ) -> None:
        """Redact what everybody calls a secret, what `patterns` and `rules` match within a line, and `values`.

        The mode `shadow` counts all that and gives back what it was given; `off` does not look.
        """
        self.counts: dict[str, int] = {}
        self._mode = mode
        self._rules = Rules((*unnamed(patterns), *rules), allow, bounded)
        self._values = tuple(dict.fromkeys(piece for value in values for piece in _pieces(value)))
        self._held = b""
        self._key_block: KeyBlock | None = None
        self._in_value = False

    @classmethod
    def of(
        cls, redact: Redact, values: Sequence[bytes], bounded: AbstractContextManager[object] | None = None
    ) -> Redactor:
        """Return a redactor as settings want it; `bounded` interrupts rules that take too long."""
        return cls(
            patterns=redact.patterns,
            values=values,
            mode=redact.mode,
            rules=redact.rules,
            allow=redact.allow,
            bounded=bounded,
        )

    def learn(self, values: Sequence[bytes]) -> None:
        """Redact these as well, from what is judged next on."""
        self._values = tuple(dict.fromkeys((*self._values, *(piece for value in values for piece in _pieces(value)))))

    @property
    def enforces(self) -> bool:
        return self._mode == "enforce"

    @property
    def values(self) -> tuple[bytes, ...]:
        """What is searched for exactly."""
        return self._values

    @property
    def count(self) -> int:
        """How many secrets were found."""
        return sum(self.counts.values())

    def feed(self, chunk: bytes) -> bytes:
        """Take `chunk` and return what is now safe to write."""
        if self._mode == "off":
            return chunk
        safe = self._safe(chunk)
        return chunk if self._mode == "shadow" else safe

    def flush(self) -> bytes:
        """End the stream and return the rest of it."""
        at = 0
        out: list[bytes] = []
        while at < len(self._held):
            at += self._take(self._held[at:], out)
        self._held, self._key_block, self._in_value = b"", None, False
        return b"" if self._mode == "shadow" else b"".join(out)

    def _safe(self, chunk: bytes) -> bytes:
        data, at = self._held + chunk, 0
        out: list[bytes] = []
        while end := self._judgeable(data, at):
            at += self._take(data[at:end], out)
        self._held = data[at:]
        return b"".join(out)

    def _note(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def _judgeable(self, data: bytes, at: int) -> int:
        """Return where a block of complete lines ends, or the first line in a private key; 0 if none is there yet."""
        newline = data.rfind(b"\n", at, at + BLOCK_MAX) if self._key_block is None else -1
        if newline < 0:
            newline = data.find(b"\n", at, at + LINE_MAX)
        return newline + 1 or (at + LINE_MAX if len(data) >= at + LINE_MAX else 0)

    def _take(self, text: bytes, out: list[bytes]) -> int:
        """Append what is left of the start of `text` to `out`; return how long that start was."""
        if self._key_block is not None:
            return self._swallow_key(text, self._key_block)
        if self._in_value and (size := self._swallow_value(text)):
            return size
        if any(word in text for word in _KEY_WORDS) and (begin := _compiled(_KEY_BEGIN).search(text)):
            out += (self._redact(text[: begin.start()]), _mark("private-key"))
            self._key_block = KeyBlock()
            self._note("private-key")
            return begin.end()
        size = self._cut(text)
        out.append(self._redact(text[:size]))
        return size

    def _swallow_key(self, line: bytes, block: KeyBlock) -> int:
        end = _compiled(_KEY_END).search(line)
        if end or block.ends_with(line):
            self._key_block = None
        return end.end() if end else len(line)

    def _swallow_value(self, text: bytes) -> int:
        rest = _REST_OF_VALUE.match(text)
        size = rest.end() if rest else 0
        self._in_value = size == len(text)
        return size

    def _cut(self, text: bytes) -> int:
        """Return how much of `text` can be written: all, unless it is a part of a longer line.

        Then its end is held back, from a place where no secret is torn. Only a value longer than all that is not
        held: what follows of it is swallowed.
        """
        if len(text) < LINE_MAX or text.endswith(b"\n"):
            return len(text)
        spans = sorted((max(find.at - AROUND_MAX, 0), find.end + AROUND_MAX) for find in self._finds(text))
        before = after = len(text) - SECRET_MAX
        for start, end in reversed(spans):
            before = start if start < before < end else before
        for start, end in spans:
            after = min(end, len(text)) if start < after < end else after
        self._in_value = not before and after == len(text)
        return before or after

    def _redact(self, text: bytes) -> bytes:
        """Replace the secrets in `text`, which is lines or a part of one, and count them."""
        for _ in range(ROUNDS_MAX):
            finds = self._finds(text)
            redacted = self._replace(text, finds) if finds else text
            if redacted == text:
                break
            text = redacted
        return text

    def _replace(self, text: bytes, finds: Iterable[Find]) -> bytes:
        done = 0
        out: list[bytes] = []
        for find in _united((*_marks(text), *finds)):
            mark = _mark(find.kind)
            if text[find.start : find.end] != mark:
                self._note(find.kind)
            out += (text[done : find.start], mark)
            done = find.end
        return b"".join((*out, text[done:]))

    def _finds(self, text: bytes) -> list[Find]:
        lower = text.lower()
        named = [*_named_secrets(lower), *_tokens(text, lower), *_exact(text, self._values)]
        finds = self._rules.judged(text, named)
        return [*finds, *self._beneath(text)] if b"\x1b" in text else finds

    def _beneath(self, text: bytes) -> Iterator[Find]:
        """Yield the secrets that only show where nobody sees the escape sequences within them: on a terminal."""
        plain, starts, shifts = _without_escapes(text)
        lower = plain.lower()
        for find in self._rules.judged(plain, (*_tokens(plain, lower), *_exact(plain, self._values))):
            first, last = (shifts[bisect_right(starts, at) - 1] + at for at in (find.start, find.end - 1))
            if last - first >= find.end - find.start:
                yield Find(first, first, last + 1, find.kind)


_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)|[@-Z\\^_])")


def _without_escapes(text: bytes) -> tuple[bytes, list[int], list[int]]:
    """Return a text without its escape sequences, where its parts start in that, and how far each was moved."""
    parts, starts, shifts, done, length = [], [0], [0], 0, 0
    for escape in _ESCAPES.finditer(text):
        parts.append(text[done : escape.start()])
        length, done = length + escape.start() - done, escape.end()
        starts.append(length)
        shifts.append(done - length)
    return b"".join((*parts, text[done:])), starts, shifts


def redact_text(text: str, *, patterns: Sequence[str] = (), values: Sequence[bytes] = ()) -> str:
    """Return `text` without its secrets: for summaries and error messages."""
    redactor = Redactor(patterns=patterns, values=values)
    redacted = redactor.feed(text.encode("utf-8", "surrogatepass")) + redactor.flush()
    return redacted.decode("utf-8", "replace")


def _mark(kind: str) -> bytes:
    return f"[redacted:{kind}]".encode()


def _marks(text: bytes) -> Iterator[Find]:
    """Yield the replacements in `text`: united with what is found in them, they stay what they are."""
    for mark in _MARK.finditer(text):
        yield Find(mark.start(), mark.start(), mark.end(), mark[1].decode())


def _united(finds: Iterable[Find]) -> Iterator[Find]:
    """Yield `finds` in order, those that overlap as one, of the first kind that says more than `secret`."""
    last: Find | None = None
    for find in sorted(finds, key=lambda find: find.start):
        if last is not None and find.start < last.end:
            kind = find.kind if last.kind == "secret" else last.kind
            last = Find(last.at, last.start, max(last.end, find.end), kind)
            continue
        if last is not None:
            yield last
        last = find
    if last is not None:
        yield last


def _named_secrets(lower: bytes) -> Iterator[Find]:
    """Yield the secrets that tell by what stands before them."""
    for rule in _NAMED:
        if rule.word not in lower:
            continue
        seen = 0
        for before in _compiled(rule.before).finditer(lower):
            # A name within a value matters only if its own value lies behind: at the very end. To look at all of
            # them would take quadratic time.
            if before.end() + NAME_MAX < seen:
                continue
            if secret := _compiled(rule.secret).match(lower, before.end()):
                seen = secret.end()
                yield Find(before.start(), *secret.span(secret.lastindex or 0), rule.kind)


def _tokens(text: bytes, lower: bytes) -> Iterator[Find]:
    """Yield the secrets that tell by their own start."""
    seen: dict[Token, int] = {}
    for start, prefix in _prefixes(text, lower):
        for token in _BY_PREFIX[prefix]:
            if start >= seen.get(token, 0) and (match := _compiled(token.pattern).match(text, start)):
                seen[token] = match.end()
                if match.lastindex:
                    yield Find(start, *match.span(match.lastindex), token.kind)


def _prefixes(text: bytes, lower: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield where a token may start. Only long runs of letters are searched, of which most text has few."""
    shape, end = text.translate(_SHAPE) + b" ", 0
    while (start := shape.find(_RUN, end)) >= 0:
        end = shape.find(b" ", start)
        for prefix in _compiled(_PREFIX).finditer(lower, max(start - RUN_LEAD, 0), end):
            yield prefix.start(), prefix[0]


def _exact(text: bytes, values: Iterable[bytes]) -> Iterator[Find]:
    """Yield where one of `values` stands."""
    for value in values:
        at = text.find(value)
        while at >= 0:
            yield Find(at, at, at + len(value), "environment")
            at = text.find(value, at + len(value))


# ------------------------------------------------------------------------------ values of the environment

_SECRET_NAME = (
    r"(?:^|_)(?:AUTH|AUTHORIZATION|BEARER|CONNECTION_STRING|COOKIE|CREDENTIALS?|CREDS|DSN|JWT|KEY|PASS|PAT|SAS)(?:_|$)"
    r"|_PWD(?:_|$)|_OTLP_(?:[A-Z]+_)?HEADERS$"
    r"|(?:API_?KEY|ACCESSKEY|PRIVATEKEY|SECRETKEY|PASSPHRASE|PASSW(?:OR)?D|SECRETS?|TOKEN)\d*(?:_|$)"
)
_PLAIN_NAME = (
    r"(?:^|_)(?:PUB|PUBLIC)(?:_|$)|_(?:ALGORITHM|AUDIENCE|COUNT|DIR|DIRECTORY|DOMAIN|ENABLED|ENDPOINT|EXPIRY|FILE|HOST"
    r"|ISSUER|LENGTH|LIMIT|MAX|METHOD|MIN|MODE|NAME|PATH|PORT|PROVIDER|REGION|SCOPES?|SIZE|SOCK|TIMEOUT|TTL|TYPE|URI"
    r"|URL|USER|USERNAME|VERSION)$"
)


def secret_values(environment: Mapping[str, str]) -> tuple[bytes, ...]:
    """Return what must never be seen of `environment`, in every form a program may print it; the longest first.

    That is the values of variables whose names look secret, and the passwords in URLs, whatever their name is.
    """
    candidates = [value.strip() for name, value in environment.items() if is_secret_name(name)]
    for value in environment.values():
        candidates += re.findall(r"://[^\s/:@]*:([^\s/]+)@", value)
    secrets = {value.encode("utf-8", "surrogateescape") for value in candidates if not _is_plain(value)}
    forms = {form for secret in secrets for form in _forms(secret)}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


def secret_names(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of variables that hold what looks like a secret, in their order."""
    return tuple(name for name, value in environment.items() if is_secret_name(name) and not _is_plain(value.strip()))


def is_secret_name(name: str) -> bool:
    """Return whether a variable of this name is taken for one that holds a secret."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", name).upper()
    return bool(re.search(_SECRET_NAME, words)) and not re.search(_PLAIN_NAME, words)


def _is_plain(value: str) -> bool:
    return len(value) < VALUE_MIN or bool(re.fullmatch(f"{_PLAIN}|{_PATH}", value, re.IGNORECASE))


def _forms(value: bytes) -> Iterator[bytes]:
    """Yield the lines of `value`, and it as JSON, URLs and base64 spell it."""
    yield from _lines(value)
    yield value.replace(b"\\", rb"\\").replace(b'"', rb"\"").replace(b"\r", rb"\r").replace(b"\n", rb"\n")
    for unsafe in (rb"[^A-Za-z0-9_.~-]", rb"[^A-Za-z0-9_.~/-]"):
        yield re.sub(unsafe, lambda byte: b"%%%02X" % byte[0][0], value)
    yield from _base64_forms(value)


def _lines(value: bytes) -> list[bytes]:
    """Return `value` as it can stand on a line: of several lines the long ones, without the frame of a key."""
    lines = [line.strip() for line in value.splitlines()]
    telling = [line for line in lines if len(line) >= VALUE_LINE_MIN and not line.startswith(b"-----")]
    return lines if len(lines) == 1 else telling


def _base64_forms(value: bytes) -> Iterator[bytes]:
    """Yield what base64 of any text makes of `value` in it, without the letters that neighbours have a part in."""
    for lead in range(3):
        start, end = -(-lead * 8 // 6), (lead + len(value)) * 8 // 6
        form = b64encode(bytes(lead) + value)[start:end]
        yield from (form, form.translate(bytes.maketrans(b"+/", b"-_")))
        if not lead:  # the command base64 breaks its lines at 76 letters
            yield from (form[at : at + 76] for at in range(0, len(form) - VALUE_LINE_MIN, 76))


def _pieces(value: bytes) -> Iterator[bytes]:
    """Yield what to search for to find `value`: its lines, in pieces that fit into what is held back."""
    for line in _lines(value):
        for at in range(0, len(line), SECRET_MAX):
            yield line[max(0, min(at, len(line) - SECRET_MAX)) : at + SECRET_MAX]
