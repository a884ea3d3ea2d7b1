"""Made-up rows of every benchmark in both layouts, and replies to them that are meant to tell rules of scoring apart. All of it drawn from a seed."""

import string
from random import Random
from typing import Any

Row = dict[str, Any]

LAYOUTS = ("parquet", "tsv")
OPTIONS = ("dog", "cat", "a bird", "red", "the red dog", "12", "1.5", "Cat and dog", "None", "A", "ant", "is", "an emu", "7,5", "Nothing \u00e9", "(B) both")
FORMULAS = "Handwritten Mathematical Expression Recognition"
CATEGORIES = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
    *("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
)
NUMBERS = ("0", "1250", "1,250", "12.5", "-3", "0.33", "2,000", "12%", "0.12", "1e3", "3.0", "\u0664", "1_000")
TEXTS = (
    "stop",
    "The Two dogs",
    "x^2 + y",
    "ten",
    "Jan 1, 2020",
    "it's",
    "U.S.A.",
    "na\u00efve",
    "STOP sign",
    "\uff26\uff35\uff2c\uff2c",
    "none",
    "a",
    "well-known",
    "3.",
)
LETTER_WORDS = (
    *("A", "B", "C", "D", "E", "Z", "J", "(A)", "(B)", "(C).", "B.", "C:", "D)", "A,", "D!", "C;", ":B", ":C.", "**B**", "[C]", "{D}", "'A'", "a", "b", "(b)"),
    *(
        "DNA",
        "USB",
        "NASA",
        "Because",
        "Dog",
        "Bob",
        "the answer is",
        "The correct answer is",
        "answer is **C**",
        "answer is cat",
        "Answer:",
        "Option",
        "I choose",
    ),
    *(
        "\u7b54\u6848\u662f",
        "\u9009B",
        "\uc815\ub2f5\uc740",
        "\\boxed{A}",
        "Cannot determine the answer",
        "so",
        "is",
        "and",
        "not",
        "or",
        "it",
        "=",
        "\n",
        ".",
        ",",
        '"',
        "'",
    ),
)
YES_NO_WORDS = (
    "yes",
    "no",
    "Yes.",
    "No,",
    "NO",
    "y",
    "n",
    "Y",
    "know",
    "not",
    "**Yes**",
    "yes:",
    "noon",
    "eyes",
    ".",
    "..",
    "\n",
    "is",
    "it",
    "yes/no",
    "yes,no",
    "'no'",
)
TEXT_WORDS = (
    *("stop", "often", "dog", "the", "a", "dont", "Im", "o'clock", "is", "so", "thus", "answer", "final", "result", "could be", "=", "$1,250", "5 %"),
    *TEXTS,
    *NUMBERS,
)
SIGNS = (".", ",", "?", "!", ";", ":", "/", "-", "_", "(", ")", "[", "]", "'", '"', "\n", "\t", "  ", "<", "\\", "`", "@")
WHOLE = (
    *(
        "",
        " ",
        "\n",
        ".",
        "nan",
        "NaN",
        "None",
        "N/A",
        "NA",
        "null",
        "none",
        "#N/A",
        "Sorry, I can't help with images of people yet.",
        "I can't process this file.",
    ),
    *(
        "Failed to obtain answer via API",
        "[LMMS_EVAL_REQUEST_FAILED after 3 retries] B",
        "I'm sorry, but without the image provided",
        "\u3000",
        "\u0130",
        "\u00df",
        "inf",
    ),
)
SAID = (
    *(
        "{0}",
        "{0}",
        "{0}.",
        "({0})",
        "({0}) {1}",
        "{0}. {1}",
        "{0}) {1}",
        "{0}: {1}",
        "{1}",
        "The answer is {0}",
        "The answer is {0}.",
        "The answer is {1}.",
        " {0} ",
    ),
    *(
        "the answer is {0} because {1} is not {2}",
        "Answer: {0}",
        "Let me see.\nAnswer: {0}. {1}",
        "**{0}**",
        "$\\boxed{{{0}}}$",
        'The answer is "{0}".',
        "option {0}",
        "Option {0}.",
    ),
    *(
        "<think>{2} or (A)</think>{0}",
        "It is {2}</think> {0}",
        "<think>{0}",
        "<analysis>x</analysis>\n{0}",
        "<think>A.</think> {0}. {1}",
        "{0}\r\n",
        "{0} {2}",
        "{2} {0}",
        "A dog is {0}",
    ),
    *("I think that it is {1} in the picture", "It must be {0}, not {2}, as the {1} shows", "{0}\n{2}"),
)


def row(benchmark: str, layout: str, random: Random) -> Row:
    """A row as `Problem.meta` has it, lists unfolded."""
    listed = layout == "parquet"
    if benchmark.startswith(("mmmu", "ai2d", "mmbench", "mmstar")):
        return _choice(benchmark, listed, random)
    if benchmark == "mme":
        picture = f"artwork/{random.randrange(100)}.jpg"
        return {"answer": random.choice(["Yes", "No"]), "category": "artwork", "question": "Is it?", "question_id" if listed else "image_path": picture}
    if benchmark == "mathvista":
        return _mathvista(listed, random)
    if benchmark == "chartqa":
        kind = random.choice(["human", "augmented"])
        return {"answer": random.choice([*NUMBERS, "Yes", "0.0", "red"]), "question": "How many?"} | (
            {"type": f"{kind}_test"} if listed else {"split": f"test_{kind}"}
        )
    if benchmark == "ocrbench":
        formula = random.random() < 0.3
        kind, answers = FORMULAS if formula else "Doc-oriented VQA", random.sample([*TEXTS, *NUMBERS], random.randint(1, 2))
        return {"answer": answers, "question": "?"} | ({"dataset": "HME100k" if formula else "IAM", "question_type": kind} if listed else {"category": kind})
    answers = random.choices(random.sample([*TEXTS, *NUMBERS], 3), k=10 if benchmark == "textvqa" else 2)
    return {"question": "?", "answers" if listed else "answer": answers}


def _choice(benchmark: str, listed: bool, random: Random) -> Row:
    if benchmark == "mmmu" and random.random() < 0.3:
        answer = random.choice([*NUMBERS, "b", "red", "12.50 m/s", ["24/7", "3.43"]])
        return {"question": "?", "answer": answer} | (
            {"id": "validation_Math_1", "question_type": "open", "options": []} if listed else dict.fromkeys("ABCD", "")
        )
    count = 10 if benchmark.startswith("mmmu-pro") else 4 if benchmark in ("mmstar", "ai2d", "ai2d-no-mask") else random.randint(2, 4)
    options = random.sample(OPTIONS if benchmark != "mmstar" else [option for option in OPTIONS if ", " not in option], count)
    right = random.randrange(count)
    found: Row = {"question": "Which?", "answer": string.ascii_uppercase[right]}
    if listed and benchmark == "mmstar":
        inline = ", ".join(f"{letter}: {option}" for letter, option in zip("ABCD", options, strict=True))
        return found | {"index": 1, "question": f"Which?\nOptions: {inline}", "category": "math", "l2_category": "geometry"}
    if listed and benchmark != "mmbench":
        own = {"id": "test_Art_1", "subject": "Art"} if benchmark.startswith("mmmu-pro") else {"id": "validation_Art_1", "question_type": "multiple-choice"}
        found |= {"options": options} | (own if benchmark.startswith("mmmu") else {"answer": str(right)})
        return {name: value for name, value in found.items() if name != "question" or benchmark != "mmmu-pro-vision"}
    columns = dict(zip("ABCDEFGHIJ"[: max(count, 4)], [*options, *["nan" if listed else ""] * 4], strict=False))
    return found | {"index": 7 if listed else "7", "category": "x", "l2_category": "y"} | columns


def _mathvista(listed: bool, random: Random) -> Row:
    kind = random.choice(["text", "text", "integer", "float", "list"])
    answer: Any = {"integer": random.choice(["0", "14", "-3", "1250"]), "float": random.choice(["1.2", "0.0", "14.25"]), "list": [1, 2]}.get(kind)
    choices = random.sample(["10", "dog", "145", "cats", "a dog", "(B) both", "A"], random.randint(2, 4)) if kind == "text" else None
    found = {"question_type": "multi_choice" if choices else "free_form", "answer_type": kind, "choices": choices, "answer": answer, "question": "?"}
    if choices:
        place = random.randrange(len(choices))
        found |= {"answer": choices[place]} | ({} if listed else {"answer_option": "ABCD"[place]})
    return found | ({"pid": "1", "precision": random.choice([1.0, 2.0]), "query": "?", "metadata": {}} if listed else {})


def whole(benchmark: str, layout: str, random: Random) -> list[tuple[Row, str]]:
    """A small file, and replies to it that every rule reads."""
    rows = {"mmbench": _questions, "mme": _pictures, "mmstar": _kinds, "ocrbench": _readings}[benchmark](layout == "parquet", random)
    found = []
    for one in rows:
        right = one["answer"][0] if benchmark == "ocrbench" else str(one["answer"])
        wrong = "nothing" if benchmark == "ocrbench" else random.choice(["Yes", "No"] if benchmark == "mme" else [*"ABCD"])
        found.append((one, right if random.random() < 0.7 else wrong))
    return found


def _questions(listed: bool, random: Random) -> list[Row]:
    rows = []
    for index in range(1, 13):
        options = random.sample(OPTIONS[:8], 4)
        for turn in range(random.randint(1, 4)):
            columns = {letter: options[(place + turn) % 4] for place, letter in enumerate("ABCD")}
            own = {"index": index + turn * 10**6 if listed else str(index + turn * 10**6), "category": "xyz"[index % 3]}
            rows.append(own | columns | {"question": "?", "answer": "ABCD"[-turn]})
    return rows


def _pictures(listed: bool, random: Random) -> list[Row]:
    names = [(category, f"{category}/{number}.jpg") for category in CATEGORIES for number in range(random.randint(2, 4))]
    column = "question_id" if listed else "image_path"
    return [{"category": category, column: name, "answer": answer, "question": "?"} for category, name in names for answer in ("Yes", "No")]


def _kinds(listed: bool, random: Random) -> list[Row]:
    kinds = [(category, f"{category} {number}") for category in ("math", "logical reasoning") for number in range(3) for _ in range(random.randint(1, 5))]
    return [
        row("mmstar", "parquet" if listed else "tsv", random) | {"index": number, "category": category, "l2_category": kind}
        for number, (category, kind) in enumerate(kinds)
    ]


def _readings(listed: bool, random: Random) -> list[Row]:
    return [row("ocrbench", "parquet" if listed else "tsv", random) for _ in range(20)]


def reply(benchmark: str, row: Row, random: Random) -> str:
    """Something that a model might say, or that only an adversary would."""
    golds, letters = _golds(row), benchmark.startswith(("mmmu", "mmbench", "mmstar", "ai2d")) or bool(row.get("choices"))
    kind = random.random()
    if kind < 0.06:
        return random.choice(WHOLE)
    if kind < 0.5:
        words = [*golds, *(string.ascii_uppercase[:5] if letters else ()), *random.sample(NUMBERS, 2)]
        said = random.choice(SAID).format(golds[0] if random.random() < 0.5 else random.choice(words), random.choice(golds), random.choice(words))
        return random.choice([said] * 8 + [said.lower(), said.upper(), _bent(said, random), said + "."])
    words = [*(LETTER_WORDS if letters else YES_NO_WORDS if benchmark == "mme" else TEXT_WORDS), *golds]
    drawn = random.choices([*words, *(random.sample(SIGNS, 3) if not letters else ())], k=random.choice([1, 1, 2, 3, 4, 6, 9, 14]))
    return random.choice(["", "", "", " ", "\n"]) + random.choice([" ", " ", " ", "", ", ", ".\n"]).join(drawn) + random.choice(["", "", ".", "\n", " "])


def _golds(row: Row) -> list[str]:
    """What is right first, as a letter where there is one, then what else the row has."""
    answers = row["answers"] if "answers" in row else row["answer"]
    listed = row.get("options") or row.get("choices") or [row[letter] for letter in "ABCD" if row.get(letter)]
    right = [str(one) for one in (answers if isinstance(answers, list) else [answers])]
    if row.get("choices"):
        right.append("ABCD"[row["choices"].index(row["answer"])])
    if row.get("options") and right[0].isdecimal():
        right[0] = "ABCDEFGHIJ"[int(right[0])]
    return right + [str(option) for option in listed]


def _bent(text: str, random: Random) -> str:
    """With one character gone, doubled or another."""
    place = random.randrange(len(text) + 1)
    return text[:place] + random.choice(["", "x", " ", ",", text[place : place + 1] * 2]) + text[place + 1 :]
