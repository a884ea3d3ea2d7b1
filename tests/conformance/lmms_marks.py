"""Marks by lmms-eval 0.7.3's own functions: `PYTHON lmms_marks.py < lines > lines`, with the interpreter of an environment that holds it.

A line {"benchmark", "row", "reply"} gives {"value", "read", "guess"}: `read` only where a rule reads one answer, `guess` where it drew one by chance or
asked a model.
"""

import json
import os
import random
import sys
from typing import Any

os.environ |= {"OPENAI_API_KEY": "x", "HF_HUB_OFFLINE": "1"}
OUT, sys.stdout = sys.stdout, sys.stderr

import pandas
from lmms_eval.api.metrics import anls, exact_match_hf_evaluate
from lmms_eval.api.reasoning import strip_reasoning_tags
from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer
from lmms_eval.tasks.ai2d import utils as ai2d
from lmms_eval.tasks.chartqa import utils as chartqa
from lmms_eval.tasks.mathvista import utils as mathvista
from lmms_eval.tasks.mmbench import en_utils
from lmms_eval.tasks.mme import utils as mme
from lmms_eval.tasks.mmmu import utils as mmmu
from lmms_eval.tasks.mmmu_pro import utils as mmmu_pro
from lmms_eval.tasks.mmstar import utils as mmstar
from lmms_eval.tasks.ocrbench import utils as ocrbench
from lmms_eval.tasks.textvqa import utils as textvqa
from loguru import logger

logger.remove()
Row = dict[str, Any]
FORMULAS = "Handwritten Mathematical Expression Recognition"
TAGS = [["<think>", "</think>"], ["<analysis>", "</analysis>"]]
guessed = False


def guessing(value: Any) -> Any:
    """A function that gives `value` of its first argument where it takes chance, and says so."""

    def guess(*arguments: Any, **_: Any) -> Any:
        global guessed
        guessed = True
        return value(*arguments) if callable(value) else value

    return guess


random.choice = guessing(lambda drawn: drawn[0])
mathvista.mathvista_evaluator.get_chat_response = guessing("")
en_utils.mmbench_evaluator.get_chat_response = guessing("Failed to obtain answer via API")


def options(row: Row) -> list[str]:
    return row["options"] if "options" in row else [row[letter] for letter in "ABCDEFGHIJ" if row.get(letter)]


def cleaned(reply: str) -> str:
    return strip_reasoning_tags(reply, TAGS).strip()


def of_ai2d(reply: str, row: Row) -> tuple[float, str | None]:
    answer = row["answer"] if row["answer"].isdecimal() else str("ABCDEFGHIJ".index(row["answer"]))
    document = {"options": options(row), "answer": answer}
    kept = ai2d.MultiChoiceRegexFilter(group_select=0, ignore_case=True, ignore_punctuation=True, regex_pattern="([A-Z])\\.")
    said = cleaned(kept.apply([[reply]], [document])[0])
    wishes = {"ignore_case": True, "ignore_punctuation": True}
    letters = "ABCDEFGHIJ"[: len(options(row))]
    read = next((letter for letter in letters if exact_match_hf_evaluate([said], [letter], **wishes)["exact_match"]), None)
    return float(exact_match_hf_evaluate([said], [ai2d.ai2d_doc_to_target(document, "mcq")], **wishes)["exact_match"]), read


def of_mmbench(reply: str, row: Row) -> tuple[float, str | None]:
    cells = {letter: row[letter] or "nan" for letter in "ABCD"}
    rest = dict.fromkeys(("source", "split", "category", "L2-category", "hint", "question"), "x")
    result = en_utils.mmbench_process_results({**rest, "index": 1, "answer": row["answer"], **cells}, [reply])["gpt_eval_score"]
    item = pandas.Series(result)
    evaluator = en_utils.mmbench_evaluator
    read = evaluator.prefetch_answer(item) or extract_mcq_answer(reply, choices=sorted(evaluator.build_choices(item)))
    return float(evaluator.eval_sub_data(pandas.DataFrame([result]), {1: row["answer"]}, static_only=True)), read


def of_mmmu(reply: str, row: Row) -> tuple[float, str | None]:
    kind = "multiple-choice" if options(row) else "open"
    document = {"id": "validation_Math_1", "options": str(options(row)), "question_type": kind, "answer": str(row["answer"]), "question": "?"}
    found = mmmu.mmmu_process_results(document, [reply])["mmmu_acc"]
    return float(mmmu.evaluate_mmmu([found])[1]["acc"]), found["parsed_pred"][0] if kind != "open" else None


def of_mmmu_pro(reply: str, row: Row, vision: bool) -> tuple[float, str | None]:
    document = {"id": "test_Art_1", "subject": "Art", "options": str(options(row)), "answer": row["answer"]} | ({} if vision else {"question": "?"})
    found = mmmu_pro.mmmu_pro_process_results(document, [reply])["mmmu_acc"]
    read = found["parsed_pred"]
    return float(mmmu_pro.evaluate_mmmu([found])[1]["acc"]), read if read in [*"ABCDEFGHIJ"] else None


def of_mathvista(reply: str, row: Row) -> tuple[float, str | None]:
    document = {"pid": "1", "query": "?", "metadata": {}, "precision": 1.0} | row | {"answer": str(row["answer"])}
    found = mathvista.mathvista_process_results(document, [reply])["llm_as_judge_eval"]
    read = found["prediction"]
    return float(found["true_false"]), read if read is None else read.strip()


def marked(benchmark: str, reply: str, row: Row) -> tuple[float, str | None]:
    if benchmark.startswith("ai2d"):
        return of_ai2d(reply, row)
    reply = cleaned(reply)
    accepted = row.get("answers", row.get("answer"))
    if benchmark == "mmstar":
        document = {"index": 1, "category": "math", "l2_category": "geometry", "answer": row["answer"]}
        return mmstar.mmstar_process_results(document, [reply])["average"]["score"], extract_mcq_answer(reply, choices=[*"ABCD"])
    if benchmark == "mme":
        [found] = mme.mme_process_results({"question_id": "1", "answer": row["answer"], "category": row["category"]}, [reply]).values()
        read = mme.parse_pred_ans(reply)
        return found["score"], None if read == "other" else read
    if benchmark == "chartqa":
        return float(chartqa.chartqa_process_results({"type": "human_test", "answer": accepted}, [reply])["relaxed_overall"]), None
    if benchmark == "textvqa":
        return float(textvqa.textvqa_process_results({"question_id": 1, "answers": [*accepted]}, [reply])["exact_match"]), None
    if benchmark == "docvqa":
        return float(anls(references=[*accepted], predictions=[reply])["anls"]), None
    if benchmark == "ocrbench":
        kind = row.get("question_type", row.get("category"))
        document = {"dataset": "HME100k" if kind == FORMULAS else "IAM", "question_type": kind, "answer": [*accepted]}
        return float(ocrbench.ocrbench_process_results(document, [reply])["ocrbench_accuracy"]["score"]), None
    if benchmark.startswith("mmmu-pro"):
        return of_mmmu_pro(reply, row, benchmark.endswith("vision"))
    return {"mmmu": of_mmmu, "mmbench": of_mmbench, "mathvista": of_mathvista}[benchmark](reply, row)


def total(benchmark: str, items: list[tuple[Row, str]]) -> float:
    if benchmark == "mmstar":
        results = [mmstar.mmstar_process_results(row, [reply])["average"] for row, reply in items]
        return 100 * mmstar.mmstar_aggregate_results(results)
    if benchmark == "mme":
        named = [(row | {"question_id": row.get("question_id", row.get("image_path"))}, reply) for row, reply in items]
        results = [mme.mme_process_results(row, [reply]) for row, reply in named]
        return sum(
            mme.mme_aggregate_results([result[name] for result in results if name in result]) for name in ("mme_perception_score", "mme_cognition_score")
        )
    rest = dict.fromkeys(("source", "split", "L2-category", "hint"), "x")
    results = [en_utils.mmbench_process_results({**rest, **row, "index": int(row["index"])}, [reply])["gpt_eval_score"] for row, reply in items]
    return 100 * en_utils.mmbench_evaluator.eval_result(results, eval_method="static")[0]


if __name__ == "__main__":
    for line in map(json.loads, sys.stdin):
        if "items" in line:
            print(json.dumps({"value": total(line["benchmark"], line["items"])}), file=OUT)
            continue
        guessed = False
        value, read = marked(line["benchmark"], line["reply"], line["row"])
        print(json.dumps({"value": value, "read": read or None, "guess": guessed}), file=OUT)
