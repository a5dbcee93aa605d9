"""What evidence says, told to a collector: wanted by the tip, less what a receipt proves.

The receipt is a tree: `<git directory>/reconciler/telemetry.json` names the state of `.runs` up to which everything was
told, with the sums that were told with it, so what is owed costs what has changed since. It is written when the
collector has taken them; whoever died in between tells the same again, with the same ids and the same sums. A pass
hands over and goes on: sending is done by a thread, and what it came to is seen by a later pass.

Told is what was executed here, because all clones of a repository see all evidence.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reconciler import codec
from reconciler.codec import CodecError
from reconciler.conditions import set_condition
from reconciler.errors import ReconcilerError
from reconciler.evidence import leads_to_manifests
from reconciler.loglines import log_records
from reconciler.model import Otlp
from reconciler.observe import Observation
from reconciler.otlp import Parcel
from reconciler.tracing import Sums, added, instant_ns, told
from reconciler.values import frozen
from reconciler.world import World

AT_ONCE_MAX = 50
"""So many runs are told at once; the others come with the next pass."""
BYTES_MAX = 16 * 1024 * 1024
PATIENCE_FIRST_S = 10.0
PATIENCE_MAX_S = 600.0
CLOSE_S = 15.0
"""How long a process that ends waits for what it is just telling."""

Send = Callable[[Otlp, Parcel], None]


@frozen
class Receipt:
    """What was told: everything up to `tree`, and of what came later the manifests in `ahead`."""

    tree: str = ""
    ahead: tuple[str, ...] = ()
    sums: Sums = Sums()


@dataclass(slots=True)
class _Telling:
    """One thread that tells, and what became of it: "" where the collector has it, else why not."""

    receipt: Receipt
    thread: threading.Thread
    reason: str | None = None


@dataclass(slots=True)
class Telemetry:
    """What is owed to a collector, as one process knows it."""

    world: World
    send: Send
    now: _Telling | None = None
    failures: int = 0
    due_s: float = 0.0
    receipt: Receipt | None = None

    def settle(self, seen: Observation, commit: str) -> None:
        """Note what was told, and begin to tell what is owed at `commit`, or at the tip that was seen if it is "". The
        lock of passes is held."""
        otlp = seen.settings.telemetry.otlp
        if otlp is None or not self._collected(seen.now.at):
            return
        before = self._receipt(seen)
        tree = self._tree(commit) if commit else self._tree(seen.evidence_tip or seen.tip)
        if self.world.now().monotonic_s < self.due_s or (tree == before.tree and not before.ahead):
            return
        owed = self._owed(before, tree)
        if not owed:
            self._keep(replace(before, tree=tree, ahead=()))
            return
        self._begin(otlp, before, tree, owed, seen)

    def close(self) -> None:
        """Wait for what is being told, not long, and note what became of it."""
        if self.now is not None:
            self.now.thread.join(CLOSE_S)
            self._collected(self.world.now().at)

    # -------------------------------------------------------------------------------------------- the receipt

    def _receipt(self, seen: Observation) -> Receipt:
        """Return what was told. Where nobody knows, that is everything up to now: history is not told."""
        if self.receipt is None:
            path = self.world.repository.state / "telemetry.json"
            try:
                data = self.world.disk.read_bounded(path, BYTES_MAX)
                self.receipt = codec.parse(Receipt, data) if data else None
            except (OSError, CodecError, ValueError):
                self.receipt = None
        if self.receipt is None:
            tree = self._tree(seen.evidence_tip or seen.tip)
            self._keep(Receipt(tree=tree, sums=Sums(since_ns=instant_ns(seen.now.at))))
        assert self.receipt is not None
        return self.receipt

    def _keep(self, receipt: Receipt) -> None:
        self.receipt = receipt
        path = self.world.repository.state / "telemetry.json"
        self.world.disk.make_directory(path.parent)
        self.world.disk.write_atomic(path, codec.compact(receipt))

    def _tree(self, commit: str) -> str:
        return (self.world.repository.look_up([f"{commit}:.runs"])[0] or "") if commit else ""

    # -------------------------------------------------------------------------------------------- what is owed

    def _owed(self, before: Receipt, tree: str) -> list[str]:
        """Return the blobs of the manifests that were not told and are of runs that were executed here."""
        known = {*before.ahead}
        found = []
        for path, entry in self.world.repository.changes(before.tree or None, tree or None, leads_to_manifests):
            task_id, _, run_id, *_ = path.split("/")
            if entry is None or not entry.is_file or entry.oid in known or not path.endswith("/manifest.json"):
                continue
            if self.world.disk.exists(self.world.runs.directory(task_id, run_id).path / "claims"):
                found.append(entry.oid)
        return found

    def _begin(self, otlp: Otlp, before: Receipt, tree: str, owed: Sequence[str], seen: Observation) -> None:
        """Tell what is owed, or as much of it as is told at once, in a thread."""
        now = owed[:AT_ONCE_MAX]
        read = self.world.repository.blobs(now)
        documents = [_document(data) for _, data in read]
        runs = tuple(run for run in map(told, documents) if run is not None)
        sums = added(before.sums, runs)
        whole = Receipt(tree=tree, sums=sums)
        receipt = whole if now == owed else replace(before, ahead=(*before.ahead, *now), sums=sums)
        parcel = Parcel(
            spans=[span for run in runs for span in run.spans],
            records=[record for each in documents for record in log_records(each)],
            sums=sums,
            now_ns=instant_ns(seen.now.at),
            about={"service.instance.id": str(self.world.host() or self.world.machine or "local")},
        )
        self.now = _Telling(receipt=receipt, thread=threading.Thread(daemon=True))
        self.now.thread = threading.Thread(target=self._tell, args=(self.now, otlp, parcel), daemon=True)
        self.now.thread.start()

    def _tell(self, telling: _Telling, otlp: Otlp, parcel: Parcel) -> None:
        """Tell, and say what became of it. What happens in here touches nothing else."""
        try:
            self.send(otlp, parcel)
            telling.reason = ""
        except ReconcilerError as error:
            telling.reason = str(error)
        except Exception as error:
            telling.reason = f"{type(error).__name__}"

    def _collected(self, at: str) -> bool:
        """Return whether nothing is being told any more, having noted what became of what was."""
        if self.now is None:
            return True
        if self.now.thread.is_alive():
            return False
        reason, receipt, self.now = self.now.reason or "", self.now.receipt, None
        if not reason:
            self._keep(receipt)
        self.failures = self.failures + 1 if reason else 0
        pause_s = min(PATIENCE_MAX_S, PATIENCE_FIRST_S * 2.0 ** (self.failures - 1)) if reason else 0.0
        self.due_s = self.world.now().monotonic_s + pause_s
        set_condition(self.world.repository.state, "telemetry", reason, at, self.world.disk)
        return True


def _document(data: bytes | None) -> object:
    """Return the manifest that bytes are, None if they are none."""
    try:
        return json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
