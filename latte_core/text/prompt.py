"""Turn what a person typed into the text the T5 tokenizer gets, as the reference does.

The cleaning removes what captions scraped from the web carry: addresses, mark-up, file names,
article numbers. It also erases Chinese and sizes such as "1920x1080", so it can be switched off.
"""

from __future__ import annotations

import html
import re
import warnings
from importlib import import_module
from types import ModuleType
from urllib.parse import unquote_plus

from ..errors import InvalidInputError, MissingDependencyError

CLEANED_AT_ONCE = 16_384  # characters; longer prompts are cleaned in pieces of this size
CLEANED_ENOUGH = 8_192  # characters of cleaned words that surely hold the tokens that are used

TOP_DOMAINS = "com|co|ru|net|org|edu|gov|it"
FILE_ENDINGS = ("png", "jpg", "jpeg", "bmp", "webp", "eps", "pdf", "apk", "mp4")
ENDING_NAMES = "|".join(FILE_ENDINGS)
# parity except for the limit of 1,024 on a host name, which keeps hostile text from taking minutes
HOST_ADDRESS = rf"[a-zA-Z0-9.\-]{{1,1024}}[.](?:{TOP_DOMAINS})[\w/-]*\b/?(?!@)"

HAS_TOP_DOMAIN = re.compile(rf"\.(?:{TOP_DOMAINS})")
HTTP_ADDRESS = re.compile(rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{HOST_ADDRESS})")
WWW_ADDRESS = re.compile(rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{HOST_ADDRESS})")
LAST_FILE_ENDING = re.compile(rf".*\.(?:{ENDING_NAMES})", re.DOTALL)
JOINERS = re.compile(r"[-_]")
MAX_JOINERS = 3
SURROGATES = re.compile(r"[\ud800-\udfff]")

Rule = tuple[re.Pattern[str], str]

# Applied after mark-up is gone and before the letters are repaired. Order matters.
REMOVE_MARKS: tuple[Rule, ...] = (
    (re.compile(r"@\w+\b"), ""),  # nicknames
    (re.compile(r"[\u31c0-\u31ef\u31f0-\u31ff\u3200-\u4dff\u4e00-\u9fff]+"), ""),  # CJK blocks
    (
        re.compile(
            r"[-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
            r"\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d]+"
        ),
        "-",
    ),  # every dash there is
    (re.compile(r"[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]"), '"'),
    (re.compile(r"[\u2018\u2019]"), "'"),
    (re.compile(r"&quot;?"), ""),
    (re.compile(r"&amp"), ""),
    (re.compile(r"\d{1,3}(?:\.\d{1,3}){3}"), " "),  # IPv4 addresses
    (re.compile(r"\d:\d\d\s+$"), ""),  # article ids
    (re.compile(r"\\n"), " "),  # a backslash and an n, not a line break
    (re.compile(r"#\d{1,3}\b"), ""),
    (re.compile(r"#\d{5,}\b"), ""),
    (re.compile(r"\b\d{6,}\b"), ""),
)

REMOVE_REPEATS: tuple[Rule, ...] = (
    (re.compile(r"[\"']{2,}"), '"'),
    (re.compile(r"\.{2,}"), " "),
    (
        re.compile(
            r"[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~()\[\]{}|\\/*]+"
        ),
        " ",
    ),
    (re.compile(r"(?<!\s)\s+\.\s+"), " "),  # the look-behind only keeps the search linear
)

# Applied after the letters are repaired. Order matters.
REMOVE_CODES: tuple[Rule, ...] = (
    (re.compile(r"\b[a-zA-Z]{1,3}\d{3,15}\b"), ""),  # jc6640
    (re.compile(r"\b[a-zA-Z]+\d+[a-zA-Z]+\b"), ""),  # jc6640vc
    (re.compile(r"\b\d+[a-zA-Z]+\d+\b"), ""),  # 6640vc231
    (re.compile(r"(?:worldwide\s+)?(?:free\s+)?shipping"), ""),
    (re.compile(r"(?:free\s)?download(?:\sfree)?"), ""),
    (re.compile(r"\bclick\b\s(?:for|on)\s\w+"), ""),
    (re.compile(rf"\b(?:{ENDING_NAMES})(?:\simages?)?"), ""),
    (re.compile(r"\bpage\s+\d+\b"), ""),
    (re.compile(r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b"), " "),
    (
        re.compile(r"\b\d+(?:\.\d*)?[x\u0445\u00d7]\d+(?:\.\d*)?\b"),
        "",
    ),  # sizes; x, Cyrillic ha, times
    (re.compile(r"\b\s+:\s+"), ": "),
    (re.compile(r"(\D[,./])\b"), r"\1 "),
    (re.compile(r"\s+"), " "),
)

TRIM_ENDS: tuple[Rule, ...] = (
    (re.compile(r"^[\"']([\w\W]+)[\"']$"), r"\1"),
    (re.compile(r"^['_,\-:;]"), ""),
    (re.compile(r"['_,\-:+]$"), ""),
    (re.compile(r"^\.\S+$"), ""),
)


def prepare_prompt(text: str, clean_caption: bool = True) -> str:
    """Return the text to tokenise: cleaned twice, or only lower-cased and stripped.

    Never fails for any text. A prompt above 16,384 characters is cleaned in pieces until there are
    more words than the encoder can use; the rest is lower-cased only, so that it can be counted.

    Args:
        text: what was typed.
        clean_caption: the reference's default. Off keeps Chinese, sizes and web words.

    Raises:
        InvalidInputError: if `text` is not a string.
        MissingDependencyError: if cleaning is on and ftfy or beautifulsoup4 is not installed.
    """
    text = _repair_surrogates(check_text(text))
    if not clean_caption:
        return text.lower().strip()
    if len(text) <= CLEANED_AT_ONCE:
        return clean_twice(text)
    return _clean_in_pieces(text.strip())


def check_text(value: object) -> str:
    """Return `value` if it is a string.

    Raises:
        InvalidInputError: otherwise.
    """
    if not isinstance(value, str):
        raise InvalidInputError(
            f"The prompt is a {type(value).__name__}, but it must be text. Connect a string."
        )
    return value


def clean_twice(text: str) -> str:
    """Clean two times in a row: the reference does, and the second pass still finds things."""
    return clean_caption(clean_caption(text))


def clean_caption(text: str) -> str:
    """Clean a caption once, with the rules and the order of `docs/model.md` 6.5.

    Raises:
        MissingDependencyError: if ftfy or beautifulsoup4 is not installed.
    """
    repair_letters = _cleaning_package("ftfy").fix_text
    text = unquote_plus(_repair_surrogates(text)).strip().lower()
    text = text.replace("<person>", "person")
    text = _drop_addresses(text, HTTP_ADDRESS, "http")
    text = _drop_addresses(text, WWW_ADDRESS, "www:")
    text = _apply(REMOVE_MARKS, _drop_markup(text))
    text = _apply(REMOVE_REPEATS, _drop_file_names(text))
    if len(JOINERS.findall(text)) > MAX_JOINERS:
        text = JOINERS.sub(" ", text)
    text = html.unescape(html.unescape(repair_letters(text)))
    return _apply(TRIM_ENDS, _apply(REMOVE_CODES, text)).strip()


def _clean_in_pieces(text: str) -> str:
    """Clean the front of a very long text until it holds `CLEANED_ENOUGH` characters."""
    cleaned: list[str] = []
    start = 0
    while start < len(text) and sum(map(len, cleaned)) < CLEANED_ENOUGH:
        stop = _piece_end(text, start)
        piece = clean_twice(text[start:stop])
        if piece:
            cleaned.append(piece)
        start = stop
    rest = text[start:].lower().strip()
    return " ".join([*cleaned, rest] if rest else cleaned)


def _piece_end(text: str, start: int) -> int:
    """Return where the piece from `start` ends: at a blank if it has one, else at the limit."""
    stop = start + CLEANED_AT_ONCE
    if stop >= len(text):
        return len(text)
    blank = text.rfind(" ", start + 1, stop)
    return blank if blank > start else stop


def _repair_surrogates(text: str) -> str:
    """Join surrogate pairs and replace lone ones: JSON carries them, UTF-8 cannot."""
    if not SURROGATES.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _apply(rules: tuple[Rule, ...], text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _drop_addresses(text: str, pattern: re.Pattern[str], scheme: str) -> str:
    """Remove web addresses word by word, trying only words that can hold one: this stays linear."""

    def clean_word(match: re.Match[str]) -> str:
        word = match[0]
        is_candidate = scheme in word or HAS_TOP_DOMAIN.search(word) is not None
        return pattern.sub("", word) if is_candidate else word

    return re.sub(r"\S+", clean_word, text)


def _drop_file_names(text: str) -> str:
    """Remove everything in a word up to the last file ending that has something before it."""

    def clean_word(match: re.Match[str]) -> str:
        word = match[0]
        name = LAST_FILE_ENDING.match(word, 1) if "." in word else None
        return word[name.end() :] if name else word

    return re.sub(r"\S+", clean_word, text)


def _drop_markup(text: str) -> str:
    """Return the text of an HTML fragment; text without mark-up or entities stays as it is."""
    if "<" not in text and "&" not in text:
        return text
    soup = _cleaning_package("bs4")
    with warnings.catch_warnings():
        # The parser warns that a prompt "looks like a file name" or "looks like XML".
        warnings.simplefilter("ignore", UserWarning)
        try:
            return soup.BeautifulSoup(text, features="html.parser").text
        except soup.ParserRejectedMarkup:
            return text  # "<![" and its like are no mark-up; the reference stops here


def _cleaning_package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"The prompt could not be cleaned: the package {name} is not installed. Run "
            '"pip install ftfy beautifulsoup4", or switch prompt cleaning off.'
        ) from error
