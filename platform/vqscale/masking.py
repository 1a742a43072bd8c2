"""Passwords in addresses, and text without them. Where an address can be read in two ways, more is hidden, not less."""

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

MASK = "***"
PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""`${NAME}`: the value of an environment variable, which is no secret as long as it is only named."""
Span = tuple[int, int]
_SECRET_NAME = re.compile(r"pass|pwd|token|secret|key|sig|auth|cred|odbc_connect", re.IGNORECASE)
_PARAMETER = re.compile(r"[?&;]([^?&;=#@/\s]+)=")
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://\S+|[\w.+-]+:[^\s@/]+@[\w.-]+:\d+")
_PUNCTUATION = "'\"`)]}>,.;:"
"""What may follow an address in a sentence."""
_SHORT = 4
"""A secret of fewer characters is looked for as a whole word only: it could be a part of any word."""


def masked(address: str) -> str:
    """An address with `***` for its password and for the values of parameters such as `token` or `sslpassword`."""
    shown, end = "", 0
    for start, stop in hidden(address):
        shown += address[end:start] + MASK
        end = stop
    return shown + address[end:]


def without_passwords(text: str) -> str:
    """A text with every address in it masked."""
    return _ADDRESS.sub(_masked_in_sentence, text)


def hide(address: str, text: str) -> str:
    """A text without the secrets of `address`, encoded or not, and without those of any address in it."""
    known = [address[start:stop] for start, stop in hidden(address)]
    forms = {form for secret in known for form in (secret, unquote(secret), quote(unquote(secret), safe=""))}
    text = text.replace(address, masked(address))
    for secret in sorted(forms - {"", MASK}, key=len, reverse=True):
        text = text.replace(secret, MASK) if len(secret) >= _SHORT else _replace_word(secret, text)
    return without_passwords(text)


def hidden(address: str) -> list[Span]:
    """The parts of an address that are masked: its secrets, except for those that only name a variable."""
    return [(start, stop) for start, stop in secret_spans(address) if PLACEHOLDER.sub("", address[start:stop])]


def secret_spans(address: str) -> list[Span]:
    """Where a password or another secret goes, in order and apart.

    A password that holds `@`, `/`, `?` or `#` ends at the last `@` of all.
    """
    return _merged([*_user_information(address), *_parameters(address)])


def _user_information(address: str) -> list[Span]:
    scheme, slashes, _ = address.partition("://") if "://" in address else ("", "", "")
    begin, end = len(scheme) + len(slashes), address.rfind("@")
    if end <= begin or address.startswith("/", begin):  # three slashes: a path, and no host
        return []
    colon = re.search(":|%3a", address[begin:end], re.IGNORECASE)
    if colon and (slashes or "/" not in address[: colon.start()]):
        return [(begin + colon.end(), end)]
    # a name without a password before a web server is a token more often than a person's
    return [(begin, end)] if scheme.rpartition("::")[2].lower() in ("http", "https") else []


def _parameters(address: str) -> list[Span]:
    found = list(_PARAMETER.finditer(address))
    ends = [*(following.start() for following in found[1:]), len(address)]
    return [(one.end(), end) for one, end in zip(found, ends, strict=False) if _SECRET_NAME.search(one[1])]


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _masked_in_sentence(found: re.Match[str]) -> str:
    address = found[0].rstrip(_PUNCTUATION)
    return masked(address) + found[0][len(address) :]


def _replace_word(word: str, text: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", MASK, text)
