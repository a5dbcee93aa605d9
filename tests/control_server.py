"""The reference control plane on a loopback port, in a thread: a real server for real clients."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from reconciler.contracts import Contracts
from reconciler.control.server import House, build
from reconciler.control.store import Store
from reconciler.listening import LOOPBACK_HOSTS, bind

TOKEN = "control-plane-token-0123456789"


class Served:
    """Where it is, what it keeps, and how to end it."""

    def __init__(self, data: Path | None, token: str = "", capabilities: tuple[str, ...] = (), port: int = 0) -> None:
        self.store = Store(data)
        house = House(hosts=LOOPBACK_HOSTS, token=token.encode(), capabilities=frozenset(capabilities))
        self.app = build(self.store, Contracts(), house)
        self.listening = bind("127.0.0.1", port)
        self.port: int = self.listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config: Any = uvicorn.Config(self.app, http="h11", ws="none", loop="asyncio", lifespan="off", log_config=None)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]}, daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.listening.close()
        self.store.close()


@contextmanager
def serving(data: Path | None = None, **keys: Any) -> Iterator[Served]:
    served = Served(data, **keys)
    try:
        yield served
    finally:
        served.end()
