"""Prints what each suite asks, computed without any of our code: the benchmark scripts in miniature.

    python3 prompts_oracle.py SUITE DATA [SHOTS]

One JSON object a line: {"id", "prompt", "gold"}, in the order of asking. SUITE is mmlu, mmlu-shots,
mmlu_pro, gsm8k, gsm8k-lm-eval or humaneval; DATA the folder with the suite's files.
"""
import csv
import gzip
import json
import pathlib
import random
import sys

LETTERS = "ABCDEFGHIJ"


def hint(letters):
    return ("There is a single choice question. Answer the question by replying "
            + ", ".join(letters) + ". No other answers are accepted. Just the letter.")


def choice_prompt(letters, question, options):
    listed = "\n".join(f"{chr(65 + i)}. {option}" for i, option in enumerate(options))
    return hint(letters) + "\nQuestion: " + question + "\n" + listed + "\nAnswer: '"


def first_thousand(rows):
    random.seed(42)
    random.shuffle(rows)
    return rows[:1000]


def mmlu_part(data, part):
    rows = []
    for path in sorted((data / part).glob(f"*_{part}.csv")):
        subject = path.name[: -len(f"_{part}.csv")]
        with open(path, newline="", encoding="utf-8") as file:
            for i, row in enumerate(csv.reader(file)):
                rows.append((f"{subject}/{part}/{i}", subject, row[0], row[1:5], row[5]))
    return rows


def mmlu(data, _):
    for name, _, question, options, letter in first_thousand(mmlu_part(data, "test")):
        yield name, choice_prompt("ABCD", question, options), letter


def mmlu_shots(data, shots):
    """The few-shot form of hendrycks/test, evaluate.py."""
    def example(row, with_answer):
        text = row[2]
        for letter, option in zip(LETTERS, row[3]):
            text += f"\n{letter}. {option}"
        return text + "\nAnswer:" + (f" {row[4]}\n\n" if with_answer else "")

    solved = {}
    for row in mmlu_part(data, "dev"):
        solved.setdefault(row[1], []).append(row)
    for row in first_thousand(mmlu_part(data, "test")):
        words = "".join(" " + word for word in row[1].split("_"))
        prompt = ("The following are multiple choice questions (with answers) about "
                  + words + ".\n\n")
        prompt += "".join(example(other, True) for other in solved[row[1]][:shots])
        yield row[0], prompt + example(row, False), row[4]


def json_lines(path):
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def mmlu_pro(data, _):
    for row in first_thousand(json_lines(data / "test.jsonl")):
        yield (str(row["question_id"]), choice_prompt(LETTERS, row["question"], row["options"]),
               row["answer"])


def gold_number(row):
    return row["answer"].split("#### ")[-1].strip().replace(",", "")


def gsm8k(data, _):
    """The eight shots come from the test, which has them from the published prompts' digest."""
    for i, row in enumerate(json_lines(data / "test.jsonl")):
        yield f"gsm8k/test/{i}", "Question: " + row["question"] + "\nAnswer:", gold_number(row)


def gsm8k_lm_eval(data, shots):
    """lm-eval draws the shots of all questions from one generator."""
    train = json_lines(data / "train.jsonl")
    draw = random.Random(1234)
    for i, row in enumerate(json_lines(data / "test.jsonl")):
        prompt = "".join(f"Question: {shot['question']}\nAnswer: {shot['answer']}\n\n"
                         for shot in draw.sample(train, shots))
        yield f"gsm8k/test/{i}", prompt + f"Question: {row['question']}\nAnswer:", gold_number(row)


def humaneval(data, _):
    for row in json_lines(data / "HumanEval.jsonl.gz"):
        prompt = ("Below is an instruction that describes a task. Write a response that "
                  "appropriately completes the request.\n\n### Instruction:\nComplete the following "
                  "Python code without any tests or explanation\n" + row["prompt"]
                  + "\n\n### Response:")
        yield row["task_id"], prompt, ""


def main():
    suite, data = sys.argv[1], pathlib.Path(sys.argv[2])
    shots = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    suites = {"mmlu": mmlu, "mmlu-shots": mmlu_shots, "mmlu_pro": mmlu_pro, "gsm8k": gsm8k,
              "gsm8k-lm-eval": gsm8k_lm_eval, "humaneval": humaneval}
    for name, prompt, gold in suites[suite](data, shots):
        print(json.dumps({"id": name, "prompt": prompt, "gold": gold}))


if __name__ == "__main__":
    main()
