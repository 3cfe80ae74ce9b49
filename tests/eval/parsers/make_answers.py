"""Makes answers.jsonl: made-up answers, and what the transcription reads in each.

    python3 tests/eval/parsers/make_answers.py            writes the file
    python3 tests/eval/parsers/make_answers.py --check    compares with it

One JSON object a line: {"text", "letters", "parsed": {parser: answer or null}} for letters, and
{"text", "gold", "parsed", "right": {parser: bool}} for numbers. Texts are drawn from pieces that
models really write, put together at random, so that rules meet in ways nobody thought of.
"""
import json
import pathlib
import random
import sys

import transcription

ANSWERS = pathlib.Path(__file__).with_name("answers.jsonl")
LETTER_TEXTS, NUMBER_TEXTS = 700, 500

LETTER_PIECES = [
    "{L}", "{l}", "{L}.", "{L}'", "'{L}'", '"{L}"', "**{L}**", "**{L}. because**", "** {L} it is",
    "({L})", "{L})", "{L}: the first", "{L} is right", "Answer: {L}", "answer:{L}", "ANSWER:  {l}",
    "Correct answer: {L}", "The correct answer is {L}.", "the correct answer is **{L}**",
    "The correct answer is\n{L}", "Answer is {L}", "Therefore, answer is {L}",
    "Therefore, the answer should be Option {L}", "The answer should be {L}", "Option {L} is correct",
    "option {l}  is correct", "Answer: {L}pple", "Option {L}is correct", "I think so.", "Vitamin {L}",
    "<think>", "</think>", "Let us see", "Because 2 + 2 = 4", "\\boxed{{{L}}}", "$\\text{{{L}}}$",
    "\u7b54\u6848: {L}", "R\u00e9ponse : {L}", "{L}\u00e9", "\u00c4", "{L}\u3002", "\u017f", "{L}\u00a0x",
    "Anſwer: {L}", "The correct anſwer is {L}", "Answer:\u3000{L}", "Answer:\x1c{L}",
]
JOINTS = ["\n", "\n\n", " ", ". ", "\r\n", "\t", "\u2028", "\x0b", "\x1d", "\u00a0", ""]
ENDS = ["", "", "", "\n", " ", "\n\n", "\u3000", "\x1f", ".", "\u00a0\n"]

NUMBER_PIECES = [
    "{N}", "The answer is {N}.", "the answer is {N}", "The answer is ${N}", "The answer is: {N}",
    "So the answer is {N} dollars.", "#### {N}", "####{N}", "#### -{N}", "#### {N}.", "${N}", "{N}%",
    "= {N}", "{N} + 3 = 7", "x = {N}/2", "about {N}.0", "{N}.50", "-{N}", ".5", "1,000,{N}", "1e{D}",
    "1_{N}", "Question: what now?", "\n\nQuestion: next\nAnswer: {N}", "He has none.",
    "The answer is unknown", "The answer is inf", "The answer is nan", "The answer is 12 and not {N}",
    "the answer is\n{N}", "The answer is .", "{N},", "$", "..", "-", "\\boxed{{{N}}}", "{N}\u00b2",
    "The answer is {N}\u3002", "\u20ac{N}", "Infinity", "+{N}", "The answer is +{N}", "{N}/100",
]


def letter_text(draw, letters):
    letter = lambda: chr(ord("A") + draw.randrange(min(26, letters + 2)))
    parts = []
    for _ in range(draw.choice([1, 1, 1, 2, 2, 3, 5, 8])):
        upper = letter()
        parts.append(draw.choice(LETTER_PIECES).format(L=upper, l=upper.lower()))
        parts.append(draw.choice(JOINTS))
    return draw.choice(["", "", "\n", " "]) + "".join(parts[:-1]) + draw.choice(ENDS)


def number_text(draw, gold):
    parts = []
    for _ in range(draw.choice([1, 1, 2, 2, 3, 5])):
        number = draw.choice([gold, gold, str(draw.randrange(2000)), str(draw.randrange(9))])
        parts.append(draw.choice(NUMBER_PIECES).format(N=number, D=draw.randrange(4)))
        parts.append(draw.choice(JOINTS[:4]))
    return "".join(parts[:-1]) + draw.choice(["", "", "\n", "."])


def lines():
    draw = random.Random(20250225)
    for _ in range(LETTER_TEXTS):
        letters = draw.choice([4, 4, 4, 10, 10, 3, 7])
        text = letter_text(draw, letters)
        parsed = {name: f(text, letters) for name, f in transcription.LETTER_PARSERS.items()}
        yield {"text": text, "letters": letters, "parsed": parsed}
    for _ in range(NUMBER_TEXTS):
        gold = draw.choice(["18", "3", "70000", "-5", "0.5", "1234", "100"])
        text = number_text(draw, gold)
        parsed = {name: f(text) for name, (f, _) in transcription.NUMBER_PARSERS.items()}
        right = {name: parsed[name] is not None and same(parsed[name], gold)
                 for name, (_, same) in transcription.NUMBER_PARSERS.items()}
        yield {"text": text, "gold": gold, "parsed": parsed, "right": right}


def main():
    made = "".join(json.dumps(line) + "\n" for line in lines())
    if sys.argv[1:] == ["--check"]:
        if ANSWERS.read_text(encoding="utf-8") != made:
            sys.exit(f"{ANSWERS} is not what make_answers.py makes: run it and look at the difference")
        return
    ANSWERS.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
