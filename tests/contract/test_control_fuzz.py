"""The control plane against schemathesis: whatever its own description allows, and whatever it does not."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS

from reconciler.contracts import Contracts
from reconciler.control.server import House, build
from reconciler.control.store import Store
from reconciler.listening import LOOPBACK_HOSTS

APP = build(Store(None), Contracts(), House(hosts=LOOPBACK_HOSTS | {"testserver"}))
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
# Of every bound in the published schema it would make a case of its own: the schema's tests do that.
SCHEMA.config.phases.coverage.enabled = False
NOT_ASKED = ("positive_data_acceptance",)
"""A manifest is described loosely there and judged by its published schema, so what is described may be refused."""


@pytest.mark.filterwarnings("ignore")
@SCHEMA.parametrize()
@settings(max_examples=8, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_whatever_comes_is_answered_as_described(case: schemathesis.Case) -> None:
    excluded = CHECKS.get_by_names(list(NOT_ASKED))
    case.call_and_validate(excluded_checks=excluded)
