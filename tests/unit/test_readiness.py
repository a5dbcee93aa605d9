"""Readiness told to a supervisor: over a real datagram socket, by path and by abstract name."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.readiness import Readiness, take_readiness


@pytest.fixture(params=["path", "abstract"])
def heard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract names are Linux's")
    name = f"@reconciler-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1))
        listener.settimeout(5)
        yield name, listener


def said(listener: socket.socket) -> list[str]:
    return listener.recv(4096).decode().split("\n")


def silent(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        listener.recv(4096)
    except BlockingIOError:
        return True
    finally:
        listener.settimeout(5)
    return False


def test_the_whole_life_is_told(heard: tuple[str, socket.socket]) -> None:
    name, listener = heard
    readiness = take_readiness({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "60000000"})
    readiness.ready("two runs\nunder way")
    assert said(listener) == ["READY=1", "STATUS=two runs under way"]
    readiness.alive()
    assert said(listener) == ["WATCHDOG=1"]
    assert 0 < readiness.next_s() <= 20
    readiness.alive("two runs\nunder way")
    assert silent(listener), "neither is it due nor is it news"
    readiness.alive("one run")
    assert said(listener) == ["STATUS=one run"]
    readiness.reloading()
    first, second = said(listener)
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=") and second[15:].isdigit()
    readiness.stopping()
    assert said(listener) == ["STOPPING=1"]


def test_its_variables_are_taken_out_of_the_environment() -> None:
    environment = {
        "NOTIFY_SOCKET": "/run/x",
        "WATCHDOG_USEC": "5000000",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/h",
    }
    assert take_readiness(environment) == Readiness("/run/x", 5.0)
    assert environment == {"HOME": "/h"}


@pytest.mark.parametrize(
    "environment",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}, {"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"},
     {"WATCHDOG_USEC": "never"}, {"WATCHDOG_USEC": "0"}],
)  # fmt: skip
def test_where_nobody_listens_nothing_is_told(environment: dict[str, str]) -> None:
    readiness = take_readiness(environment)
    assert (readiness.address, readiness.period_s) == ("", None)
    assert readiness.next_s() == float("inf")
    readiness.ready("x")
    readiness.alive("y")


def test_a_supervisor_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    readiness = take_readiness({"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "1000000"})
    readiness.ready()
    readiness.alive()
