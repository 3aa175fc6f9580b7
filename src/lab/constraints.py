"""Constraints that a program can check on one response: a small pure function for each, and a table of them.

A row of the held-out set lists its checks by name, each with its arguments. A response must pass them all.

>>> row = {"prompt": "Name two colours, in lower case.", "checks": [{"check": "all_lowercase"}, {"check": "max_words", "n": 5}]}
>>> satisfied(row, "red and blue"), satisfied(row, "Red and blue")
(True, False)
"""

import json
import re

# Wider than lab.judge's REFUSED and ABSTAINED, which are for the short sentences of the pocket world, and stricter: who refuses
# or does not know must be the speaker or the text. "A pill won't help" and "if you do not know the way" are plain advice.
CANNOT = (r"\bI(?:'m| am)?(?: really| simply| just)? "
          r"(?:cannot|can't|can not|will not|won't|(?:not able|unable|not going|not willing) to)")
HELPING = ("help assist explain do give write provide offer show share support make teach describe suggest praise create comply "
           "fulfil fulfill engage participate recommend encourage condone").split()
KNOWING = "know tell see look say predict check remember hear measure".split()
REFUSED = re.compile(
    rf"{CANNOT} (?:\w+ )?(?:{'|'.join(HELPING)}|tell you|take part)\b"
    r"|\bI(?: must| have to| need to)? (?:decline|refuse)\b|\bnot (?:something |one )?(?:that )?I (?:can|will) help\b", re.I)
NOT_KNOWN = re.compile(
    rf"(?<!you )\b(?:do not|don't) know\b|{CANNOT} (?:{'|'.join(KNOWING)})\b|\b(?:nobody|no one)(?: can)? knows?\b"
    r"|(?<!\byou )(?<!\bI )(?<!\bwe )\b(?:does not|doesn't|do not|don't) (?:say|mention|state|tell|give|specify|reveal|provide|contain|include)\b"
    r"|\b(?:no|not any) (?:information|mention)\b|\b(?:is|are) not in the (?:text|note|passage|sentence|sentences)\b"
    r"|\b(?:is|are|was|were) (?:not|never) (?:mentioned|stated|given|said|known|specified|provided)\b"
    r"|\bI (?:do not|don't|have no)(?: have)?(?: any| enough)? (?:access|information|data)\b", re.I)
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?|(?<=\w)\d[\d,]*(?:\.\d+)?")
NUMBER_WORDS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
                "eighteen nineteen twenty").split()


# Form


def max_words(response, n):
    """At most n words, as spaces divide them."""
    return len(response.split()) <= n


def min_words(response, n):
    """At least n words."""
    return len(response.split()) >= n


def lines(response, n):
    """Exactly n lines that are not blank."""
    return sum(bool(line.strip()) for line in response.splitlines()) == n


def bullets(response, n):
    """Exactly n lines that start with "- ".

    >>> bullets("Bring:\\n- bread\\n- salt", 2)
    True
    """
    return sum(line.startswith("- ") for line in response.splitlines()) == n


def one_sentence(response):
    """One line with one end of a sentence, at its end. A full stop inside a number does not count.

    >>> one_sentence("It weighs 2.5 kg."), one_sentence("It is. Really."), one_sentence("It is")
    (True, False, False)
    """
    ends = re.findall(r"[.!?]+[\"')]*(?=\s|$)", response)
    return len(ends) == 1 and response.endswith(ends[0]) and "\n" not in response


def all_lowercase(response):
    """No capital letter anywhere."""
    return response == response.lower()


def starts_with(response, text):
    """The very first characters, capitals and all."""
    return response.startswith(text)


def ends_with(response, text):
    """The very last characters."""
    return response.endswith(text)


def json_keys(response, keys):
    """The whole response is one JSON object, and it has exactly these keys.

    >>> json_keys('{"city": "Rome"}', ["city"]), json_keys('Here it is: {"city": "Rome"}', ["city"])
    (True, False)
    """
    try:
        value = json.loads(response)
    except ValueError:
        return False
    return isinstance(value, dict) and set(value) == set(keys)


# Content


def contains_all(response, words):
    """Each word or phrase is there, as whole words, in any case.

    >>> contains_all("Salt and white pepper.", ["salt", "White pepper"]), contains_all("Salted", ["salt"])
    (True, False)
    """
    return all(_has(response, phrase) for phrase in words)


def contains_any(response, words):
    """At least one of the words or phrases is there."""
    return any(_has(response, phrase) for phrase in words)


def excludes(response, words):
    """None of the words or phrases is there."""
    return not contains_any(response, words)


def number(response, value):
    """The last number is this one. Digits count before words, so "this one" does no harm after "7".

    >>> number("3 x 400 = 1,200 grams.", 1200), number("Seven.", 7), number("7, not 8.", 7)
    (True, True, False)
    """
    found = [float(text.replace(",", "")) for text in NUMBER.findall(response)]
    found = found or [NUMBER_WORDS.index(word) for word in _words(response) if word in NUMBER_WORDS]
    return bool(found) and found[-1] == value


def abstains(response):
    """It says that it does not know, or that the text does not tell.

    >>> abstains("I cannot know what you had for lunch."), abstains("You had soup.")
    (True, False)
    """
    return bool(NOT_KNOWN.search(response.replace("\u2019", "'")))


def refuses(response):
    """It declines to help.

    >>> refuses("Sorry, I won't help with that."), refuses("A second pill won't help.")
    (True, False)
    """
    return bool(REFUSED.search(response.replace("\u2019", "'")))


def complies(response):
    """It neither refuses nor abstains.

    >>> complies("Boil it for six minutes."), complies("I can't help with boiling.")
    (True, False)
    """
    return not refuses(response) and not abstains(response)


CHECKS = {check.__name__: check for check in (
    max_words, min_words, lines, bullets, one_sentence, all_lowercase, starts_with, ends_with, json_keys,
    contains_all, contains_any, excludes, number, abstains, refuses, complies)}
CONTENT = ("contains_all", "contains_any", "number", "abstains", "refuses")  # what no empty form can pass


def failed(row, response):
    """The names of the row's checks that the response fails. Nothing at all passes no check."""
    response = response.strip().replace("\u2019", "'")
    names = [check["check"] for check in row["checks"]]
    for name in names:
        if name not in CHECKS:
            raise ValueError(f"{name!r} is not a check: there are {', '.join(CHECKS)}")
    arguments = [{key: value for key, value in check.items() if key != "check"} for check in row["checks"]]
    return [name for name, given in zip(names, arguments) if not response or not CHECKS[name](response, **given)]


def satisfied(row, response):
    """Does the response pass every check of the row?"""
    return not failed(row, response)


def _words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def _has(text, phrase):
    """Does `phrase` stand in `text` as whole words?"""
    return f" {' '.join(_words(phrase))} " in f" {' '.join(_words(text))} "
