"""Which of several texts say the same, word for word or nearly so. Pure."""

import re
from collections.abc import Iterator, Sequence

_ONE_SIGN = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"  # without blanks: each sign is a word
_WORD = re.compile(f"[{_ONE_SIGN}]|[^\\W{_ONE_SIGN}]+")
_RUN = 3  # words; two texts are as like as the part of their runs that both have
_NEARLY = 0.6


def alike(texts: Sequence[str]) -> Iterator[tuple[int, int, bool]]:
    """For each place in `texts` that says what an earlier one does: both places, the first such one first, and whether
    the words are the same (True) or nearly so (False), whatever their case, blanks and punctuation. Texts without a
    word are like none."""
    words = [_WORD.findall(text.casefold()) for text in texts]
    runs = [set(zip(*(each[start:] for start in range(_RUN)), strict=False)) for each in words]
    for place in range(len(texts)):
        same = [other for other in range(place) if words[other] and words[other] == words[place]]
        near = [other for other in range(place) if _near(runs[other], runs[place])]
        if same or near:
            yield (same or near)[0], place, bool(same)


def _near(runs: set[tuple[str, ...]], others: set[tuple[str, ...]]) -> bool:
    shared = len(runs & others)
    return shared > 0 and shared >= _NEARLY * len(runs | others)
