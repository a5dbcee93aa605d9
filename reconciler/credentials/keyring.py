"""A secret in the keyring of whoever runs the reconciler, by the package `keyring`, which need not be installed."""

from __future__ import annotations

from reconciler.credentials.secret import NoCredential, Secret, checked
from reconciler.values import frozen


@frozen
class FromKeyring:
    """The entry of a system and a user."""

    system: str
    user: str

    def get(self, name: str) -> Secret:
        try:
            import keyring
        except ImportError:
            cure = "run: python3 -m pip install 'gitops-reconciler[keyring]'"
            raise NoCredential(f"credential '{name}': the package keyring is missing; {cure}") from None
        try:
            value = keyring.get_password(self.system, self.user)
        except Exception as error:  # every backend has errors of its own, and their texts may hold anything
            raise NoCredential(f"credential '{name}': the keyring answers with {type(error).__name__}") from None
        if value is None:
            raise NoCredential(f"credential '{name}': the keyring has no entry of {self.system} for {self.user}")
        return checked(name, str(value))
