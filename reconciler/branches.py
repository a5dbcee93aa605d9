"""Which branch everything is read from, and which commit is its tip: here, or at the remote as it said last."""

from __future__ import annotations

from reconciler.errors import ContentError, GitFailed, TransientError
from reconciler.hearing import Hearing
from reconciler.remote import HEADS
from reconciler.tip import Tip, Trees
from reconciler.world import World


class Branches:
    """Chooses the branch of a tip once, and says where it points. `hearing` is None where no remote is asked;
    `looking` is for those who look and do not act, `head_is_unborn` says that HEAD has no commit to choose by."""

    def __init__(self, world: World, tip: Tip, hearing: Hearing | None) -> None:
        self.world, self.tip, self.hearing = world, tip, hearing
        self.looking = self.head_is_unborn = False

    def commit(self) -> str:
        """Return the commit to read from. Raise ContentError if the branch has none."""
        branch = self._branch()
        if self.hearing is not None:
            if self.hearing.asked is None and not self.hearing.refs:
                self.hearing.recall(self.read())
                if self.looking and f"{HEADS}{branch}" not in self.hearing.refs:
                    self._ask_once(self.hearing, branch)
            return self._at_remote(self.hearing, branch)
        commit = self.world.repository.commit_of(branch)
        if commit is None:
            raise ContentError(f"branch '{branch}' has no commit; commit something first")
        return commit

    def read(self) -> list[str]:
        """Return the branches that are read from the remote."""
        branch, own = self._branch(), self.tip.settings.publish
        return [branch, *([own.branch] if own.mode == "branch" else [])]

    def read_settings(self, trees: Trees) -> None:
        """Read the settings, and hear other machines by them."""
        self.tip.read_settings(trees)
        if self.hearing is not None:
            self.hearing.lease_unknown_s = self.tip.settings.lease_s

    def _branch(self) -> str:
        """Return the branch, at first the one that `reconciler.yaml` at HEAD names, else the one HEAD names."""
        if self.tip.branch is None:
            self.head_is_unborn = self.world.repository.look_up(["HEAD^{commit}"])[0] is None
            self.read_settings(self.tip.trees_at("HEAD"))
            self.tip.branch = self.tip.settings.branch or self.world.repository.head_branch()
        return self.tip.branch

    def _ask_once(self, hearing: Hearing, branch: str) -> None:
        """Ask the remote for somebody who only looks: nobody did that in this clone, so there is nothing to look at."""
        assert self.world.remote is not None
        try:
            hearing.ask(self.read())
        except TransientError as error:
            name = self.world.remote.name
            raise ContentError(
                f"nothing is known of branch '{branch}' at {name} yet, which does not answer: {error}"
            ) from None

    def _at_remote(self, hearing: Hearing, branch: str) -> str:
        assert self.world.remote is not None
        commit = hearing.refs.get(f"{HEADS}{branch}")
        if commit is None:
            name = self.world.remote.name
            if hearing.asked is None:
                raise GitFailed(f"nothing is known of branch '{branch}' at {name} yet")
            cure = f"git push {name} {branch}, or name another branch in reconciler.yaml"
            raise ContentError(f"there is no branch '{branch}' at {name}; {cure}")
        return commit
