"""Marks by VLMEvalKit e8e78f0's own functions, without a judge: `VLMEVAL=FOLDER PYTHON vlmeval_marks.py < lines > lines`, FOLDER being a clone of it.

Lines as in lmms_marks.py; replies pass through a file of predictions as there, all of them through one. With "profile" official they do not, and the
choice is read by its `can_infer` alone, which is MMBench's own rule.
"""

import json
import os
import re
import sys
import tempfile
import types
from typing import Any

OUT, sys.stdout = sys.stdout, sys.stderr
for name in ("vlmeval", "vlmeval.dataset", "vlmeval.dataset.utils"):
    # Its packages load every model and data set when they are imported; the modules in them are the real ones.
    package = types.ModuleType(name)
    package.__path__ = [os.path.join(os.environ["VLMEVAL"], *name.split("."))]
    sys.modules[name] = package
from vlmeval.dataset.utils import judge_util

package.DEBUG_MESSAGE, package.build_judge = judge_util.DEBUG_MESSAGE, judge_util.build_judge

import pandas
from pandas._libs.parsers import STR_NA_VALUES
from vlmeval.dataset import image_vqa
from vlmeval.dataset.utils import mathvista, multiple_choice, vqa_eval, yorn
from vlmeval.smp import dump, load
from vlmeval.utils.matching_util import can_infer

Row = dict[str, Any]
FORMULAS = "Handwritten Mathematical Expression Recognition"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
KINDS = {"chartqa": ("relaxed_accuracy", "ChartQA_TEST"), "textvqa": ("vqa_score", "TextVQA_VAL"), "docvqa": ("anls", "DocVQA_VAL")}


def through_file(replies: list[str]) -> list[Any]:
    """As its spreadsheet gives them back, with one that is no number among them."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "predictions.xlsx")
        dump(pandas.DataFrame({"index": range(len(replies) + 1), "prediction": [*replies, "text"]}), path)
        return list(load(path)["prediction"])[:-1]


def options(row: Row) -> dict[str, Any]:
    """By letter, None where its table's reader takes a text for nothing."""
    listed = row.get("options", row.get("choices"))
    if listed is None and not row.get("A") and "Options:" in row.get("question", ""):
        listed = re.findall(r"[A-D]: (.*?)(?=, [B-D]: |$)", row["question"].rpartition("Options:")[2])
    found = dict(zip(LETTERS, listed, strict=False)) if listed is not None else {letter: row[letter] for letter in LETTERS if letter in row}
    return {letter: None if option in STR_NA_VALUES else option for letter, option in found.items()}


def right(row: Row) -> str:
    answer = str(row["answer"])
    return LETTERS[int(answer)] if answer.isdecimal() and "options" in row and len(row["options"]) else answer


def of_choice(reply: str, row: Row, mmmu: bool) -> tuple[float, str | None, bool]:
    data = pandas.DataFrame([{"A": None, "B": None, **options(row), "question": "", "prediction": reply, "answer": right(row)}])
    if mmmu:
        data = multiple_choice.MMMU_preproc(data)
    gold = right(row) if not mmmu or right(row) in [*LETTERS] else "A"
    data["GT"] = [gold]
    read = multiple_choice.prefetch_answer(data.iloc[0])
    return float(multiple_choice.eval_vanilla(None, data.iloc[0])["hit"]), read or None, not read


def of_mathvista(reply: Any, row: Row) -> tuple[float, str | None, bool]:
    line = row | {"prediction": reply, "choices": str(row["choices"]), "answer": str(row["answer"])}
    if row["choices"]:
        line.setdefault("answer_option", LETTERS[row["choices"].index(row["answer"])])
    read = mathvista.post_check(line, prefetch=True)
    value = float(bool(mathvista.post_check(line | {"res": read}, prefetch=False))) if read else 0.0
    return value, (str(read) if row["choices"] and read else None), not read


def of_ocrbench(reply: Any, row: Row) -> float:
    line = {"prediction": reply, "answer": str(row["answer"]), "category": row.get("category", row.get("question_type"))}
    image_vqa.load = lambda _: pandas.DataFrame([line])
    image_vqa.dump = lambda *_, **__: None
    image_vqa.get_intermediate_file_path = lambda *_, **__: ""
    image_vqa.tqdm = lambda items: items
    return float(image_vqa.OCRBench.evaluate("x.xlsx")["Final Score"])


def of_official(benchmark: str, reply: str, row: Row) -> tuple[float, str | None, bool]:
    listed = row.get("options") or [row[letter] for letter in "ABCD" if row[letter] not in ("", "nan")]
    given = dict(zip(LETTERS, listed, strict=False))
    same = [letter for letter, option in given.items() if option == reply.strip()] if benchmark != "mmbench" else []
    read = same[0] if same else can_infer(reply.strip(), dict(given)) or None
    return float(read == right(row)), read, read is None


def marked(benchmark: str, reply: Any, row: Row) -> tuple[float, str | None, bool]:
    said = str(reply)
    if benchmark == "mme":
        read = yorn.YOrN_Extraction(said)
        return float(row["answer"] == read), None if read == "Unknown" else read, read == "Unknown"
    if benchmark == "mathvista":
        return of_mathvista(reply, row)
    if benchmark == "ocrbench":
        return of_ocrbench(reply, row), None, False
    if benchmark in KINDS:
        method, name = KINDS[benchmark]
        result = vqa_eval.process_line({"answer": str(row.get("answers", row.get("answer"))), "prediction": said}, method=method)
        return float(vqa_eval.hit_calculate([result], name)[0]), None, False
    return of_choice(said, row, benchmark.startswith("mmmu"))


def total(benchmark: str, items: list[tuple[Row, str]]) -> float:
    if benchmark == "ocrbench":
        return 1000 * sum(of_ocrbench(reply, row) for row, reply in items) / len(items)
    data = pandas.DataFrame([{**row, **options(row), "answer": right(row), "prediction": reply} for row, reply in items])
    if benchmark == "mme":
        data["image_path"] = data.get("image_path", data.get("question_id"))
        data["score"] = [row["answer"] == yorn.YOrN_Extraction(reply) for row, reply in items]
        yorn.load = lambda _: data
        found = yorn.MME_rating("x.xlsx")
        return float(found["perception"][0] + found["reasoning"][0])
    data["index"] = [int(index) for index in data["index"]]
    evaluate = multiple_choice.mcq_circular_eval if benchmark == "mmbench" else multiple_choice.mcq_vanilla_eval
    # It works on its own copy of whichever rows it scores, and on one process without a file to save to.
    multiple_choice.track_progress_rich = lambda function, tasks, **_: [function(**task) for task in tasks]
    with tempfile.TemporaryDirectory() as folder:
        result = os.path.join(folder, "result.pkl")
        dump({}, result)
        found = evaluate(None, data.copy(), data.copy(), 1, result, "MMBench" if benchmark == "mmbench" else "MMStar")
    return 100 * float(multiple_choice.report_acc(found)["Overall"][0])


if __name__ == "__main__":
    lines = [json.loads(line) for line in sys.stdin]
    if lines and "items" in lines[0]:
        for line in lines:
            print(json.dumps({"value": total(line["benchmark"], line["items"])}), file=OUT)
        sys.exit()
    for line, reply in zip(lines, through_file([line["reply"] for line in lines]), strict=True):
        official = line.get("profile") == "official"
        value, read, guess = of_official(line["benchmark"], line["reply"], line["row"]) if official else marked(line["benchmark"], reply, line["row"])
        print(json.dumps({"value": value, "read": read, "guess": guess}), file=OUT)
