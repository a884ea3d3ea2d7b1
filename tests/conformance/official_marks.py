"""Marks by what benchmarks' authors published: `OFFICIAL=FOLDER PYTHON official_marks.py < lines > lines`.

FOLDER holds OWNER/REPOSITORY/PATH of each script, and MME's calculation.py out of its archive eval_tool.zip. Of a script only the functions are run that
score; the interpreter needs numpy and Levenshtein. Lines as in lmms_marks.py.
"""

import ast
import copy
import json
import os
import re
import sys
import tempfile
import types
from typing import Any

import numpy
from Levenshtein import distance

Row = dict[str, Any]
MMMU = "MMMU-Benchmark/MMMU/mmmu/utils/eval_utils.py"
MMMU_PRO = "MMMU-Benchmark/MMMU/mmmu-pro/evaluate.py"
MMSTAR = "MMStar-Benchmark/MMStar/eval/vlmeval/evaluate/mmstar.py"
MME = "BradyFU/Awesome-Multimodal-Large-Language-Models/calculation.py"
EXTRACT, SCORE = "lupantech/MathVista/evaluation/extract_answer.py", "lupantech/MathVista/evaluation/calculate_score.py"
TEXTVQA = "facebookresearch/mmf/mmf/utils/m4c_evaluators.py"
OCRBENCH = "Yuliang-Liu/MultimodalOCR/OCRBench/example.py"
FORMULAS = "Handwritten Mathematical Expression Recognition"
LETTERS = "ABCDEFGHIJ"
guessed = False


def guess(drawn: Any, *_: Any, **__: Any) -> Any:
    global guessed
    guessed = True
    return drawn


def parsed(path: str) -> ast.Module:
    with open(os.path.join(os.environ["OFFICIAL"], path), encoding="utf-8") as file:
        return ast.parse(file.read(), path)


def functions(path: str, **names: Any) -> types.SimpleNamespace:
    """The functions and classes of a script, none of its other statements run."""
    tree = parsed(path)
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    given = {
        "re": re,
        "np": numpy,
        "Dict": dict,
        "random": types.SimpleNamespace(choice=lambda drawn: guess(drawn[0])),
        "tqdm": lambda items, **_: items,
    } | names
    exec(compile(tree, path, "exec"), given)
    return types.SimpleNamespace(**given)


def constant(path: str, name: str) -> Any:
    [value] = [node.value for node in parsed(path).body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name]
    return ast.literal_eval(value)


def options(row: Row) -> list[str]:
    return row["options"] if "options" in row else [row[letter] for letter in LETTERS if row.get(letter)]


def of_mmmu(reply: str, row: Row) -> tuple[float, str | None]:
    given = options(row)
    if not given:
        return float(mmmu.eval_open(row["answer"], mmmu.parse_open_response(reply))), None
    read = mmmu.parse_multi_choice_response(reply, [*LETTERS[: len(given)]], dict(zip(LETTERS, given, strict=False)))
    return float(mmmu.eval_multi_choice(row["answer"], read)), read


def of_mmmu_pro(reply: str, row: Row) -> tuple[float, str | None]:
    given = options(row)
    read = mmmu_pro.parse_multi_choice_response(reply, [*LETTERS[: len(given)]], dict(zip(LETTERS, given, strict=False)))
    return float(read == row["answer"]), read


def of_mmstar(reply: str, row: Row) -> tuple[float, str | None]:
    """It scores whole files: ours is the first line of eighteen, one of each kind, and is scored for each letter in turn."""
    read = []
    for letter in "ABCD":
        stars[0] |= {"prediction": reply, "answer": letter}
        mmstar.MMStar_eval("x.xlsx")
        read += letter if star_scores.pop()["final score"] else ""
    return float(row["answer"] in read), "".join(read) or None


def of_mathvista(reply: str, row: Row) -> tuple[float, str | None]:
    # A table has no column of the precision.
    problem = {"precision": len(str(row["answer"]).partition(".")[2]), "query": "?", "pid": "1"} | row | {"answer": str(row["answer"])}
    model = types.SimpleNamespace(get_response=lambda **_: guess(""))
    found = extract.extract_answer(model, reply, problem, True)
    if guessed or not found:
        guess(None)
        return 0.0, None
    read = score.normalize_extracted_answer(found, row["choices"], row["question_type"], row["answer_type"], problem["precision"])
    return float(score.safe_equal(read, problem["answer"])), read


def of_mme(reply: str, row: Row) -> tuple[float, str | None]:
    read = mme.calculate_metrics.parse_pred_ans(None, reply.lower())
    return float(read == row["answer"].lower()), None if read == "other" else read


def of_textvqa(reply: str, row: Row) -> tuple[float, str | None]:
    answers = row.get("answers", row.get("answer"))
    return textvqa.TextVQAAccuracyEvaluator().eval_pred_list([{"pred_answer": reply, "gt_answers": answers}]), None


def of_ocrbench(reply: str, row: Row) -> tuple[float, str | None]:
    kind = row.get("question_type", row.get("category"))
    line = {"type": kind, "dataset_name": "HME100k" if kind == FORMULAS else "IAM", "answers": row["answer"], "predict": reply or " "}
    data = [line]
    exec(scoring, {"data": data})
    return float(data[0]["result"]), None


def total(items: list[tuple[Row, str]]) -> float:
    """MME's whole calculation over its files of lines, an image's two questions one behind the other; of what it prints the two sums."""
    said: list[tuple[Any, ...]] = []
    names = dict.fromkeys(("precision_score", "recall_score"), lambda *_, **__: 0.0) | {"confusion_matrix": lambda *_, **__: ((0, 0), (0, 0))}
    names |= {"accuracy_score": lambda golds, read: sum(map(int.__eq__, golds, read)) / len(golds), "print": lambda *words: said.append(words)}
    with tempfile.TemporaryDirectory() as folder:
        for row, reply in items:
            with open(os.path.join(folder, f"{row['category']}.txt"), "a", encoding="utf-8") as file:
                file.write(f"{row.get('question_id', row.get('image_path'))}\t?\t{row['answer']}\t{reply}\n")
        functions(MME, os=os, eval_type_dict=constant(MME, "eval_type_dict"), **names).calculate_metrics().process_result(folder)
    return sum(words[1] for words in said if words[0] == "total score:")


[table] = [node for node in ast.walk(parsed(MMSTAR)) if isinstance(node, ast.Dict) and len(node.keys) == 6][:1]
kinds = [(category, kind) for category, inner in ast.literal_eval(table).items() for kind in inner]
stars = [{"prediction": "", "answer": "A", "bench": "", "category": category, "l2_category": kind} for category, kind in kinds]
star_scores: list[dict[str, float]] = []
quiet = types.SimpleNamespace(info=lambda *_: None)
file = type("File", (), {"__len__": lambda _: len(stars), "iloc": stars})()
names = {"load": lambda _: file, "dump": lambda found, _: star_scores.append(found), "get_logger": lambda _: quiet}
mmstar = functions(MMSTAR, deepcopy=copy.deepcopy, **names)
mmmu, mmmu_pro, mme, textvqa = functions(MMMU), functions(MMMU_PRO), functions(MME), functions(TEXTVQA)
extract = functions(EXTRACT, logging=quiet, demo_prompt="")
score = functions(SCORE, logging=quiet, distance=distance)
loop = next(node for node in ast.walk(parsed(OCRBENCH)) if isinstance(node, ast.For) and "HME100k" in ast.unparse(node))
scoring = compile(ast.Module([loop], []), OCRBENCH, "exec")
RULES = {"mmmu": of_mmmu, "mmmu-pro": of_mmmu_pro, "mmmu-pro-vision": of_mmmu_pro, "mmstar": of_mmstar, "mathvista": of_mathvista}
RULES |= {"mme": of_mme, "textvqa": of_textvqa, "ocrbench": of_ocrbench}

if __name__ == "__main__":
    for line in map(json.loads, sys.stdin):
        if "items" in line:
            print(json.dumps({"value": total(line["items"])}))
            continue
        guessed = False
        value, read = RULES[line["benchmark"]](line["reply"].strip(), line["row"])
        print(json.dumps({"value": value, "read": read, "guess": guessed}))
