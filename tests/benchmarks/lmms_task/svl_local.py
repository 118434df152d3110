"""The functions of the task `svl_local`: rows of {"image": path, "question": text, "answer": text}.
Read by lmms-eval, without this project.
"""

from PIL import Image


def visual(row):
    return [Image.open(row["image"]).convert("RGB")]


def text(row, lmms_eval_specific_kwargs=None):
    return row["question"]


def messages(row, lmms_eval_specific_kwargs=None):
    shown = {"type": "image", "url": visual(row)[0]}
    return [{"role": "user", "content": [shown, {"type": "text", "text": row["question"]}]}]


def marked(row, results):
    return {"exact_match": float(results[0].strip() == row["answer"])}
