"""Text as a person sees it, with nothing hidden in it: what can't be seen, or turns the order of letters, is escaped.

Source: Unicode Standard Annex #44, general categories; Unicode Technical Report #36, "Bidirectional text spoofing".
"""

import unicodedata

_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_JOINERS = frozenset("\u200c\u200d")
"""Zero width non-joiner and joiner: words of several languages, and emoji, are written with them."""
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5")
"""Letters and marks that show nothing."""
_VARIATION_SELECTORS = (range(0xFE00, 0xFE0F), range(0xE0100, 0xE01F0))
"""All but U+FE0F, which makes an emoji of a character."""
_BMP = 0xFFFF


def escape_invisible(text: str, *, kept: str = "\t\n") -> str:
    r"""Return `text` for people to read: `\u202e` for what can't be seen; tabs, newlines, joiners stay."""
    return text if _is_plain(text, kept) else "".join(_shown(one, kept, _JOINERS) for one in text)


def escape_invisible_in_json(text: str) -> str:
    r"""Return `text`, a JSON document, with every invisible character as a JSON escape: the same document, all of it to
    be seen. Beyond U+FFFF as a pair of surrogates."""
    return text if _is_plain(text, "\n") else "".join(_json_escaped(one) for one in text)


def _is_plain(text: str, kept: str) -> bool:
    return text.isascii() and all(one.isprintable() or one in kept for one in text)


def _shown(character: str, kept: str, allowed: frozenset[str]) -> str:
    if character in kept or character in allowed or not _is_hidden(character):
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code <= _BMP else f"\\U{code:08x}"


def _json_escaped(character: str) -> str:
    if character == "\n" or not _is_hidden(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2]):04x}" for at in range(0, len(units), 2))


def _is_hidden(character: str) -> bool:
    code = ord(character)
    return (
        unicodedata.category(character) in _INVISIBLE
        or character in _BLANK
        or any(code in selectors for selectors in _VARIATION_SELECTORS)
        or (character.isspace() and character not in " \t\n")
    )
