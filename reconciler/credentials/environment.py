"""A secret in a variable of the environment."""

from __future__ import annotations

import os

from reconciler.credentials.secret import NoCredential, Secret, checked
from reconciler.values import frozen


@frozen
class FromEnvironment:
    """The variable of this name, which stages do not inherit."""

    variable: str

    def get(self, name: str) -> Secret:
        value = os.environ.get(self.variable, "")
        if not value:
            raise NoCredential(f"credential '{name}': the variable {self.variable} is not set; set it and try again")
        return checked(name, value)
