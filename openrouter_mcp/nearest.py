"""What somebody may have meant who named a model that does not exist. Pure."""

import difflib
import re
from collections.abc import Mapping

from openrouter_mcp.errors import UnknownModel
from openrouter_mcp.finding import is_offered
from openrouter_mcp.records import FREE_SUFFIX, Model

_MOST = 200  # characters of an id; real ones have some sixty
_MOST_AUTHORS = 2
_LIKE = 0.6
_MUCH_LIKE = 0.7
# Versions, sizes and dates rotate; what is left of a name says which line of models it is.
_WORDS = re.compile(r"[a-z]+")
_PASSING = frozenset({"b", "v", "k", "preview", "latest", "beta", "alpha", "exp", "experimental", "free", "it"})


def find(model: str, known: Mapping[str, Model]) -> Model:
    """The entry whose id is byte for byte `model`.

    Raises:
        UnknownModel: with what it may be called now, and the nearest ids.
    """
    if model not in known:
        raise unknown(model, known)
    return known[model]


def unknown(model: str, known: Mapping[str, Model]) -> UnknownModel:
    """That there is no `model`; with the id it may have now, and the nearest ones."""
    heir = successor(model, known)
    return UnknownModel(model[:_MOST], [id_ for id_ in similar(model, known) if id_ != heir], heir)


def similar(model: str, known: Mapping[str, Model], count: int = 3) -> list[str]:
    """The ids most like `model` that can be asked for: of its author, or of the author most like its, else whoever's;
    free ones first, and beside each its free twin."""
    asked = _base(model.strip().lower()[:_MOST])
    variants: dict[str, list[str]] = {}
    for id_, entry in known.items():
        if is_offered(entry):
            variants.setdefault(_base(id_), []).append(id_)
    author, _, name = asked.partition("/")
    meant = difflib.get_close_matches(author, {_author(base) for base in variants}, n=_MOST_AUTHORS, cutoff=_LIKE)
    family = [base for base in variants if name and _author(base) in meant]
    near = difflib.get_close_matches(asked, family, n=count, cutoff=_LIKE)
    if not near:  # no such author, or none was named
        names = {base.partition("/")[2]: base for base in variants}
        near = [names[one] for one in difflib.get_close_matches(name or asked, names, n=count, cutoff=_MUCH_LIKE)]
    found = [id_ for base in near for id_ in sorted(variants[base], reverse=True, key=_is_free)][:count]
    return sorted(found, key=lambda id_: not _is_free(id_))


def successor(model: str, known: Mapping[str, Model]) -> str:
    """The id that `model` has now: that of its dated name or alias, else the newest of its line; empty when there is
    none."""
    asked = model.strip().lower()[:_MOST]
    base, _, variant = asked.partition(":")
    for entry in known.values():
        if base and base == entry.canonical_slug and is_offered(entry) and entry.id.partition(":")[2] == variant:
            return entry.id
    author, line = base.partition("/")[0], _line(base)
    heirs = [entry for entry in known.values() if entry.family == author and is_offered(entry)]
    same = [
        one
        for one in heirs
        if line and _line(one.id) == line and _base(one.id) != base and one.id.partition(":")[2] == variant
    ]
    return max(same, key=lambda entry: (entry.created, entry.id)).id if same else ""


def _line(id_: str) -> frozenset[str]:
    """The words of a name that stay when its version changes."""
    name = id_.partition("/")[2].partition(":")[0].lower()
    return frozenset(_WORDS.findall(name)) - _PASSING


def _base(id_: str) -> str:
    return id_.partition(":")[0]


def _author(id_: str) -> str:
    return id_.partition("/")[0]


def _is_free(id_: str) -> bool:
    return id_.endswith(FREE_SUFFIX)
