"""Citations in a streamed answer: `[3]` becomes the number of its source, and numbers without a passage go.

Sources are numbered in the order in which the answer cites them, so `[n]` is always the n-th source.
"""

import re

# With the blank before it, which goes with a citation that is dropped.
_WHOLE = re.compile(r"( ?)\[\s*\d+(?:\s*[,;]\s*\d+)*\s*\]")
_BEGUN = re.compile(r" ?(?:\[[\d\s,;]*)?")
_OPEN = re.compile(r"\[[\d\s,;]*\Z")
_NUMBER = re.compile(r"\d+")
_LONGEST = 40


class CitationStream:
    """Takes an answer piece by piece and gives it back with its citations renumbered. Code stays as it is."""

    def __init__(self, passages: int) -> None:
        self._passages = passages
        self._held = ""
        self._in_code = False
        self._text: list[str] = []
        self.cited: list[int] = []
        """Numbers of the passages cited so far, from 1, in the order of their first citation."""

    @property
    def text(self) -> str:
        """All that was given back."""
        return "".join(self._text)

    def feed(self, piece: str) -> str:
        """The text that is certain by now; the beginning of a possible citation is held back."""
        whole = self._held + piece
        given: list[str] = []
        at = 0
        while at < len(whole):
            if whole[at] not in " [" or self._in_code:
                self._in_code ^= whole[at] == "`"
                given.append(whole[at])
                at += 1
            elif found := _WHOLE.match(whole, at):
                given.append(self._renumbered(found) or self._gap(given))
                at = found.end()
            elif self._may_go_on(whole[at:]):
                break
            else:
                given.append(whole[at])
                at += 1
        self._held = whole[at:]
        return self._give("".join(given))

    def end(self) -> str:
        """What was still held back."""
        held, self._held = self._held, ""
        return self._give(held)

    def _may_go_on(self, rest: str) -> bool:
        return len(rest) < _LONGEST and _BEGUN.fullmatch(rest) is not None

    def _renumbered(self, citation: re.Match[str]) -> str:
        numbers = [int(number) for number in _NUMBER.findall(citation.group())]
        known = [number for number in dict.fromkeys(numbers) if 1 <= number <= self._passages]
        self.cited.extend(number for number in known if number not in self.cited)
        return f"{citation.group(1)}[{', '.join(str(self.cited.index(n) + 1) for n in known)}]" if known else ""

    def _gap(self, given: list[str]) -> str:
        """Stands where a citation was dropped: in `[[9]1]`, what is left around it must not become a citation."""
        return "[]" if _OPEN.search(self.text + "".join(given)) else ""

    def _give(self, text: str) -> str:
        self._text.append(text)
        return text
