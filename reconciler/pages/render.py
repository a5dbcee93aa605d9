"""Templates and values become HTML. Pure: the templates are given as texts.

Escaping is not a matter of care: every value is escaped and made visible unless a template made it, and a name that is
not there is an error, never an empty place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from reconciler.pages import places, text
from reconciler.values import frozen

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'"
)
"""What a page may load: what lies beside it, and nothing else."""


@frozen
class Site:
    """What all pages of one site share: its name; `live` where a loop is behind it; `said`, one line about what it
    shows, and the commit that is."""

    name: str
    live: bool
    said: str
    commit: str


class Pages:
    """Makes pages. `sources` are the templates by name."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.environment = Environment(
            loader=DictLoader(sources),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_finalized,
            trim_blocks=True,
            lstrip_blocks=True,
            cache_size=100,
            auto_reload=False,
        )
        words = {"instant": text.instant, "took": text.took, "size": text.size, "visible": text.visible}
        self.environment.filters |= words
        self.environment.globals |= {"places": places, "policy": POLICY}

    def page(self, name: str, place: str, site: Site, **values: Any) -> str:
        """Return the page that the template `name` makes of the values, for its place in the site."""
        found = self.environment.get_template(f"{name}.html")
        return found.render(place=place, up=places.up(place), site=site, **values)


def _finalized(value: Any) -> Any:
    """Return a value as templates print it: text that is not theirs with every character visible."""
    if isinstance(value, Markup):
        return value
    return text.visible(value) if isinstance(value, str) else value
