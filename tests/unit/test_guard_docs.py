"""What documents name: links and anchors, paths, verbs of the reconciler, targets of make."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.guards import docs
from reconciler.guards.docs import Known, known_of, page_of, targets_of

PATHS = [
    "README.md",
    "docs/guide.md",
    "docs/page.md",
    "docs/my file.md",
    "docs/img/a.png",
    "src/app/main.py",
    "Makefile",
    ".runs/t/x",
]
KNOWN = known_of(PATHS, ["reconcile", "guard"], frozenset({"test", "lint"}))
GUIDE = (
    b'# Guide\n\n## What it *is*\n\n## Twice\n\n## Twice\n\n## `code` & more!\n\n<a id="own"></a>\n\nSet\next\n===\n'
)


def said(text: str, path: str = "docs/page.md", known: Known = KNOWN) -> list[str]:
    anchors = {"docs/guide.md": page_of(GUIDE).anchors}
    return [f"{each.line}: {each.reason}" for each in docs.findings(path, page_of(text.encode()), known, anchors)]


@pytest.mark.parametrize(
    "text",
    [
        "[a](guide.md) [b](../README.md) [c](img/a.png) ![d](img/a.png) [e](img) [f](img/) [g](..) [h](.)",
        "[a](guide.md#guide) [b](guide.md#what-it-is) [c](guide.md#twice) [d](guide.md#twice-1)",
        "[a](guide.md#code--more) [b](guide.md#own) [c](guide.md#setext) [d](guide.md?plain=1#guide)",
        "[a](my%20file.md) [b](<my file.md>) [c](/README.md) [d](/docs)",
        "[a](https://example.invalid/x) [b](mailto:a@example.invalid) [c](//example.invalid/x) <https://example.invalid>",
        "# Here\n\n[a](#here) [b](#) [c][ref]\n\n[ref]: guide.md\n",
        "[a](img/a.png#anything)",
        "```\n[a](nowhere.md)\n```\n\n    [a](nowhere.md)\n\n`[a](nowhere.md)`\n\n<!-- [a](nowhere.md) -->\n",
        '<img src="img/a.png"> <a href="guide.md">x</a>',
    ],
)  # fmt: skip
def test_links_that_lead_somewhere(text: str) -> None:
    assert said(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\n[a](nowhere.md)", "2: the link nowhere.md leads nowhere"),
        ("[a](Guide.md)", "1: the link Guide.md leads nowhere"),
        ("[a](guide)", "1: the link guide leads nowhere"),
        ("[a](docs/guide.md)", "1: the link docs/guide.md leads nowhere"),
        ("[a](/guide.md)", "1: the link /guide.md leads nowhere"),
        ("[a](../../x.md)", "1: the link ../../x.md leads out of the repository"),
        ("[a](../../../etc/passwd)", "1: the link ../../../etc/passwd leads out of the repository"),
        ("[a](%2e%2e/%2e%2e/x)", "1: the link %2e%2e/%2e%2e/x leads out of the repository"),
        ("[a](guide.md#nowhere)", "1: the link guide.md#nowhere leads to no heading of docs/guide.md"),
        ("[a](guide.md#Guide)", "1: the link guide.md#Guide leads to no heading of docs/guide.md"),
        ("[a](guide.md#twice-2)", "1: the link guide.md#twice-2 leads to no heading of docs/guide.md"),
        ("# Here\n\n[a](#there)", "3: the link #there leads to no heading of docs/page.md"),
        ("one\ntwo\n[a][ref]\n\n[ref]: nowhere.md", "3: the link nowhere.md leads nowhere"),
        ("![a](img/b.png)", "1: the link img/b.png leads nowhere"),
        ('<img src="img/b.png">', "1: the link img/b.png leads nowhere"),
        ('text <a href="nowhere.md">x</a>', "1: the link nowhere.md leads nowhere"),
        ("- a\n- [b](nowhere.md)\n", "2: the link nowhere.md leads nowhere"),
        ("| a |\n|---|\n| [b](nowhere.md) |\n", ": the link nowhere.md leads nowhere"),
        ("# [a](nowhere.md)", "1: the link nowhere.md leads nowhere"),
        ("> [a](nowhere.md)", "1: the link nowhere.md leads nowhere"),
    ],
)
def test_links_that_lead_nowhere(text: str, found: str) -> None:
    (reason,) = said(text)
    assert reason.endswith(found) if found.startswith(":") else reason == found


@pytest.mark.parametrize(
    "text",
    [
        "`src/app/main.py` `src/app/main.py:12` `src/app/main.py#L3` `src/app/` `docs/img/a.png` `img/a.png`",
        "`origin/main` `and/or` `application/json` `refs/heads/main` `a/b/c.py` `github.com/x/y.git`",
        "`src/<name>.py` `src/**/*.py` `src/{a,b}.py` `src/$X.py` `src/... .py` `src/app/…` `/src/x.py` `../src/x.py`",
        "`src/app/feature` `src` `main.py` `src/x.py is prose` `~/src/x.py` `https://example.invalid/src/x.py`",
        "`.runs/t/cli/x/manifest.json` `out/t/README.md`",
        "`src/new.py`\n\n```python\n# src/new.py\nprint()\n```\n",
        "src/app/nowhere.py",
        "```\nsrc/app/nowhere.py\n```",
    ],
)
def test_paths_that_are_there_or_no_paths_of_ours(text: str) -> None:
    assert said(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`src/app/nowhere.py`", "1: there is no src/app/nowhere.py in this repository"),
        ("a\nb `src/other/`", "2: there is no src/other/ in this repository"),
        ("`src/app/nowhere.py:12`", "1: there is no src/app/nowhere.py:12 in this repository"),
        ("`docs/nowhere.md`", "1: there is no docs/nowhere.md in this repository"),
        ("`img/b.png`", "1: there is no img/b.png in this repository"),
        ("`./src/x.py`", "1: there is no ./src/x.py in this repository"),
    ],
)
def test_paths_that_are_not_there(text: str, found: str) -> None:
    assert said(text) == [found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`reconciler reconcile --wait` `reconciler guard docs` `reconciler VERB` `reconciler --help` `reconciler`", []),
        ("`reconciler reconsile`", ["1: reconciler has no verb 'reconsile'"]),
        ("`reconciler --repo x deploy`", ["1: reconciler has no verb 'deploy'"]),
        ("`reconciler.yaml` `reconciler/git.py`", ["1: there is no reconciler/git.py in this repository"]),
        ("```sh\n# comment\n$ reconciler deploy   # now\nreconciler guard docs\n```", ["3: reconciler has no verb 'deploy'"]),
        ("```console\nreconciler deploy\n```", ["2: reconciler has no verb 'deploy'"]),
        ("```text\nreconciler deploy\n```", []),
        ("```python\nreconciler deploy\n```", []),
        ("The reconciler deploys nothing.", []),
        ("`make test` `make` `make -j4 test lint` `make test X=1` `X=1 make test`", []),
        ("`make tests`", ["1: make has no target 'tests'"]),
        ("```bash\nmake test && make deploy\n```", []),
        ("```sh\nmake lint deploy  # all\n```", ["2: make has no target 'deploy'"]),
        ("```sh\ncd api\nmake deploy\n```", []),
        ("`make -C api deploy`", []),
        ("`make $(TARGET)` `make <target>`", []),
        ("`cmake build` `make_it so`", []),
    ],
)  # fmt: skip
def test_commands_that_documents_name(text: str, found: list[str]) -> None:
    known = known_of([*PATHS, "reconciler/x.py"], KNOWN.verbs, KNOWN.targets)
    assert said(text, known=known) == found


def test_a_makefile_that_cannot_be_understood_judges_nothing() -> None:
    known = known_of(PATHS, [], None)
    assert said("`make anything`", known=known) == []
    assert said("`make anything`", known=known_of(PATHS, [], frozenset())) == ["1: make has no target 'anything'"]


@pytest.mark.parametrize(
    ("makefile", "targets"),
    [
        ("test:\n\techo x: y\n", {"test"}),
        (".PHONY: a b\na b: c ## doc\nc::\n", {"a", "b", "c"}),
        ("X := 1\nY:=2\nZ ::= 3\nlist = a:b\nrun: $(X)\n", {"run"}),
        ("$(VENV)/x: y\n\ntest: ; echo\n", {"test"}),
        ("# no: target\n", set()),
        ("include other.mk\ntest:\n", None),
        ("-include other.mk\n", None),
        ("%.o: %.c\n\tcc\n", None),
    ],
)
def test_what_a_makefile_can_make(makefile: str, targets: set[str] | None) -> None:
    assert targets_of(makefile) == targets


@settings(deadline=None)
@given(st.text(max_size=300))
def test_no_text_breaks_it(text: str) -> None:
    said(text)
    said(f"`{text}`\n\n```sh\n{text}\n```\n")


@pytest.mark.parametrize("text", ["[" * 20_000, "`" * 20_000, "a/" * 20_000, "`" + "a/" * 10_000 + "`", "<" * 20_000,
                                  "```sh\nmake" + " a" * 20_000 + "\n```", "> " * 5_000, "*a_" * 10_000])  # fmt: skip
def test_no_document_takes_for_ever(text: str) -> None:
    began = time.process_time()
    said(text)
    assert time.process_time() - began < 10
