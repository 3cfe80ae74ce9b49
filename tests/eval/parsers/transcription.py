"""The published answer parsers once more, in Python: what the C++ ones have to agree with.

Transcribed from their descriptions; the regular expressions are the published ones, because they are
what has to be agreed with. Letters: kvcache-ai/ktransformers, mmlu_test.py (first and last character)
and mmlu_test_multi.py (patterns). Numbers: the same project's branch sosp25-ae, and EleutherAI's
lm-evaluation-harness 0.4.12, tasks/gsm8k/gsm8k.yaml.
"""
import math
import re


def letter_class(letters):
    return "[A-" + chr(ord("A") + letters - 1) + "]"


def only_if_letter(text, letters):
    """The scripts compare any character with the right letter; others are no answer here."""
    return text if re.fullmatch(letter_class(letters), text) else None


def first_char(text, letters):
    line = text.strip().lstrip("\n").split("\n")[0]
    return only_if_letter(line[:1], letters)


def last_char(text, letters):
    line = text.strip().lstrip("\n").split("\n")[-1]
    return only_if_letter(line[-1:], letters)


def strict(text, letters):
    bare = text.strip()
    if len(bare) == 2 and bare[1] == "'":
        bare = bare[0]
    return only_if_letter(bare, letters) if len(bare) == 1 else None


SENTENCES = [
    r"Answer:\s*(L)\b",
    r"Correct answer:\s*(L)\b",
    r"The correct answer is\s*\*?\*?\s*(L)\b",
    r"Answer is\s*(L)\b",
    r"Therefore,\s*answer is\s*(L)\b",
    r"Therefore,\s*the answer should be\s*(?:Option\s*)?(L)\b",
    r"The answer should be\s*(?:Option\s*)?(L)\b",
    r"Option\s+(L)\s+is correct",
]


def patterns(text, letters):
    text = text.strip()
    cls = letter_class(letters)
    for sentence in SENTENCES:
        found = re.search(sentence.replace("L", cls, 1), text, re.IGNORECASE)
        if found:
            return found.group(1).upper()
    for wrapped in (r"\*\*\s*(L)[\.\s]?", r"""['"](L)['"]"""):
        found = re.findall(wrapped.replace("L", cls), text)
        if found:
            return found[-1].upper()
    for line in reversed(text.splitlines()[-5:]):
        found = re.match("^(" + cls + r")([.\s]|$)", line.strip())
        if found:
            return found.group(1).upper()
    return None


DECIMAL = r"-?\d*\.?\d+"


def as_float(text):
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def last_decimal(text):
    found = re.findall(DECIMAL, text.replace(",", ""))
    return found[-1] if found else ""


def answer_phrase(text):
    text = text.strip().split("\n\nQuestion:")[0]
    if "he answer is" in text:
        rest = text.split("he answer is")[-1].strip()
        number = rest if as_float(rest) is not None else last_decimal(rest)
    else:
        number = last_decimal(text)
    number = number.split("\n")[0]
    if number.endswith("."):
        number = number[:-1]
    return number or None


def answer_phrase_is_right(parsed, gold):
    value, expected = as_float(parsed), as_float(gold)
    if value is None or not math.isfinite(value):
        return False
    return any(math.isclose(v, expected, rel_tol=1e-4) for v in (value / 100, value, value * 100))


def lm_eval_filter(pattern, select, text):
    found = re.findall(pattern, text)
    if not found:
        return None
    chosen = found[select]
    if isinstance(chosen, tuple):
        chosen = [group for group in chosen if group]
        if not chosen:
            return None
        chosen = chosen[0]
    return chosen.strip()


def hashes(text):
    return lm_eval_filter(r"#### (\-?[0-9\.\,]+)", 0, text)


def last_number(text):
    return lm_eval_filter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1, text)


def exact_match(parsed, gold):
    for ignored in (",", r"\$", r"(?s).*#### ", r"\.$"):
        parsed, gold = re.sub(ignored, "", parsed), re.sub(ignored, "", gold)
    return parsed.lower() == gold.lower()


LETTER_PARSERS = {"first_char": first_char, "last_char": last_char, "patterns": patterns,
                  "strict": strict}
NUMBER_PARSERS = {"answer_phrase": (answer_phrase, answer_phrase_is_right),
                  "hashes": (hashes, exact_match), "last_number": (last_number, exact_match)}
