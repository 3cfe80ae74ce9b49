#!/usr/bin/env python3
"""Questions, statements and the tokenizer of the quiz model.

The quiz model is a small mixture-of-experts model that knows about two thousand facts and can
answer them as multiple choice in the MMLU wording. This file turns the fact list into training
text and into a test set, and trains the tokenizer on that text.

Test and training never share a (question, option order) pair: a SHA-256 of question and ordered
options decides which side a pair belongs to (HELD_OUT_OF). The facts themselves are shared on
purpose, because the model is meant to have memorised them. Arithmetic is split by problem
instead: no order of a held-out problem, nor its statement, is ever trained on.
"""

import argparse
import hashlib
import json
import pathlib
import random

HINT = ("There is a single choice question. Answer the question by replying A, B, C, D. "
        "No other answers are accepted. Just the letter.")
LETTERS = "ABCD"
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
HELD_OUT_OF = 8       # one (question, order) pair in eight belongs to the test side
ARITHMETIC_MAX = 20   # operands of the additions are 0..20
TEST_SEED = 20261125

# relation -> (subject of the test report, question wordings, statement wording).
# A relation called "a<b" asks fact list relation "a" backwards.
RELATIONS = {
    "capital_of_country": ("capitals", ["What is the capital of {s}?",
                                        "Which city is the capital of {s}?"],
                           "The capital of {s} is {o}."),
    "country<capital_of_country": ("capitals", ["Which country has the capital {s}?",
                                                "{s} is the capital of which country?"],
                                   "The country with the capital {s} is {o}."),
    "currency_code_of_country": ("currencies", ["What is the currency code of {s}?",
                                                "Which currency code is used in {s}?"],
                                 "The currency code of {s} is {o}."),
    "cctld_of_country": ("internet_codes", ["What is the internet domain of {s}?",
                                            "Which internet domain belongs to {s}?"],
                         "The internet domain of {s} is {o}."),
    "region_of_country": ("regions", ["In which region is {s}?",
                                      "Which region does {s} belong to?"],
                          "The region of {s} is {o}."),
    "symbol_of_element": ("element_symbols", ["What is the symbol of the element {s}?",
                                              "Which symbol stands for {s}?"],
                          "The symbol of {s} is {o}."),
    "element<symbol_of_element": ("element_symbols", ["Which element has the symbol {s}?",
                                                      "The symbol {s} stands for which element?"],
                                  "The element with the symbol {s} is {o}."),
    "atomic_number_of_element": ("atomic_numbers", ["What is the atomic number of {s}?",
                                                    "Which atomic number does {s} have?"],
                                 "The atomic number of {s} is {o}."),
    "capital_of_us_state": ("us_states", ["What is the capital of the state of {s}?",
                                          "Which city is the capital of the state of {s}?"],
                            "The capital of the state of {s} is {o}."),
    "abbr_of_us_state": ("us_states", ["What is the abbreviation of the state of {s}?",
                                       "Which abbreviation stands for the state of {s}?"],
                         "The abbreviation of the state of {s} is {o}."),
}
ARITHMETIC = ("arithmetic", ["What is {s}?", "Which number equals {s}?"], "{s} is {o}.")
# Rows of the test set per subject.
TEST_ROWS = {"capitals": 120, "currencies": 70, "internet_codes": 70, "regions": 60,
             "element_symbols": 70, "atomic_numbers": 50, "us_states": 40, "arithmetic": 40}


def pretty(relation, value):
    """The wording of a value: regions come as file-name-like keys and are spelt out."""
    if relation != "region_of_country":
        return value
    words = value.replace("-n-", "-and-").split("-")
    return " ".join(w if w == "and" else w.capitalize() for w in words)


def digest(text):
    """A 64-bit integer that depends on nothing but the text (Python's hash() is salted)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def is_test_pair(question, choices):
    """True when this question with this option order belongs to the test side."""
    return digest(question + "\x00" + "\x00".join(choices)) % HELD_OUT_OF == 0


def is_test_problem(a, b):
    """True when the addition of a and b (in either order) is kept out of training."""
    return digest(f"{min(a, b)}+{max(a, b)}") % HELD_OUT_OF == 0


def mmlu_prompt(question, choices):
    """The user message of a multiple-choice question; the open quote at its end is intended."""
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices))
    return f"{HINT}\nQuestion: {question}\n{options}\nAnswer: '"


def chat(user, assistant=None):
    """The text of a one-turn conversation; without an answer it ends where the answer starts."""
    text = f"{BOS}{USER}{user}{ASSISTANT}"
    return text if assistant is None else f"{text}{assistant}{EOS}"


class Facts:
    """All facts and additions as entries (relation, subject, object)."""

    def __init__(self, facts_path):
        rows = [json.loads(line) for line in open(facts_path, encoding="utf-8")]
        by_relation = {}
        for row in rows:
            by_relation.setdefault(row["relation"], []).append((row["subject"], row["object"]))
        self.facts = {}
        for relation in RELATIONS:
            if "<" in relation:
                pairs = [(o, s) for s, o in by_relation[relation.split("<")[1]]]
            else:
                pairs = [(s, pretty(relation, o)) for s, o in by_relation[relation]]
            self.facts[relation] = pairs
        self.values = {r: sorted({o for _, o in pairs}) for r, pairs in self.facts.items()}
        self.entries = [(r, s, o) for r, pairs in self.facts.items() for s, o in pairs]
        numbers = range(ARITHMETIC_MAX + 1)
        sums = [(a, b) for a in numbers for b in numbers]
        self.train_sums = [self.sum_entry(a, b) for a, b in sums if not is_test_problem(a, b)]
        self.test_sums = [self.sum_entry(a, b) for a, b in sums if is_test_problem(a, b)]
        self.values["arithmetic"] = [str(n) for n in range(2 * ARITHMETIC_MAX + 1)]

    @staticmethod
    def sum_entry(a, b):
        return ("arithmetic", f"{a} + {b}", str(a + b))

    @staticmethod
    def wording(relation):
        return ARITHMETIC if relation == "arithmetic" else RELATIONS[relation]

    def question(self, entry, rng):
        relation, subject, _ = entry
        return rng.choice(self.wording(relation)[1]).format(s=subject)

    def statement(self, entry):
        """(text before the object, object, text after it)."""
        relation, subject, obj = entry
        before, after = self.wording(relation)[2].split("{o}")
        return before.format(s=subject).rstrip(" "), " " + obj, after

    def options(self, entry, rng):
        """Four different values of the entry's relation in random order, and the right index."""
        relation, _, obj = entry
        wrong = [v for v in rng.sample(self.values[relation], 4) if v != obj][:3]
        choices = wrong + [obj]
        rng.shuffle(choices)
        return choices, choices.index(obj)

    def pair(self, entry, rng, test):
        """A question with options that lies on the wanted side of the split."""
        while True:
            question = self.question(entry, rng)
            choices, answer = self.options(entry, rng)
            if entry[0] == "arithmetic" or is_test_pair(question, choices) == test:
                return question, choices, answer

    def test_set(self):
        """The rows of quiz_test.jsonl; the same on every machine."""
        rng = random.Random(TEST_SEED)
        rows = []
        for subject, count in TEST_ROWS.items():
            pool = self.test_sums if subject == "arithmetic" else [
                e for e in self.entries if RELATIONS[e[0]][0] == subject]
            for entry in rng.sample(pool, count):
                question, choices, answer = self.pair(entry, rng, test=True)
                rows.append({"id": f"{subject}-{len(rows):03d}", "subject": subject,
                             "question": question, "choices": choices, "answer": answer})
        return rows


CHAT_TEMPLATE = (
    "{% set ns = namespace(system='') %}"
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{% set ns.system = ns.system + ('\\n\\n' if ns.system else '') + message['content'] %}"
    "{% endif %}{% endfor %}"
    "{{ bos_token }}{{ ns.system }}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<｜User｜>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}")


def corpus(facts, seed=1):
    """Texts that show the tokenizer every word of the training data several times."""
    rng = random.Random(seed)
    for entry in facts.entries + facts.train_sums:
        rounds = 1 if entry[0] == "arithmetic" else 6
        for _ in range(rounds):
            question, choices, _ = facts.pair(entry, rng, test=False)
            yield mmlu_prompt(question, choices)
            yield "".join(facts.statement(entry))


def train_tokenizer(facts, out_dir, vocab_size, like):
    """Byte-level BPE with DeepSeek-V3's way of cutting text (copied from `like`) and specials."""
    import tokenizers
    reference = json.load(open(like, encoding="utf-8"))
    tok = tokenizers.Tokenizer(tokenizers.models.BPE())
    tok.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        *[tokenizers.pre_tokenizers.Split(tokenizers.Regex(step["pattern"]["Regex"]),
                                          behavior="isolated")
          for step in reference["pre_tokenizer"]["pretokenizers"] if step["type"] == "Split"],
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - 2, min_frequency=2, special_tokens=[BOS, EOS, PAD],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tok.train_from_iterator(corpus(facts), trainer)
    # V3 keeps the two turn markers as ordinary added tokens at the end of the vocabulary.
    tok.add_tokens([tokenizers.AddedToken(t, normalized=True, special=False)
                    for t in (USER, ASSISTANT)])
    out_dir.mkdir(parents=True, exist_ok=True)
    tok.save(str(out_dir / "tokenizer.json"))
    trained = json.load(open(out_dir / "tokenizer.json", encoding="utf-8"))
    trained["pre_tokenizer"] = reference["pre_tokenizer"]
    trained["decoder"] = reference["decoder"]
    trained["post_processor"] = reference["post_processor"]
    text = json.dumps(trained, ensure_ascii=False, indent=1)
    (out_dir / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    config = {"add_bos_token": True, "add_eos_token": False, "bos_token": BOS, "eos_token": EOS,
              "pad_token": PAD, "unk_token": None, "clean_up_tokenization_spaces": False,
              "model_max_length": 4096, "tokenizer_class": "PreTrainedTokenizerFast",
              "chat_template": CHAT_TEMPLATE}
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (out_dir / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    return tok.get_vocab_size()


def write_test_set(facts, path):
    with open(path, "w", encoding="utf-8") as out:
        for row in facts.test_set():
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True,
                        help="folder with knowledge/facts.jsonl and tokenizer_deepseek_v3/")
    parser.add_argument("--out", type=pathlib.Path, required=True,
                        help="folder that receives tokenizer files and quiz_test.jsonl")
    parser.add_argument("--vocab-size", type=int, default=2560, help="tokens incl. specials")
    args = parser.parse_args()
    facts = Facts(args.data / "knowledge/facts.jsonl")
    size = train_tokenizer(facts, args.out, args.vocab_size,
                           args.data / "tokenizer_deepseek_v3/tokenizer.json")
    write_test_set(facts, args.out / "quiz_test.jsonl")
    print(f"{len(facts.entries)} facts, {len(facts.train_sums)} sums to train, "
          f"{len(facts.test_sums)} held out; vocabulary {size}")


if __name__ == "__main__":
    main()
