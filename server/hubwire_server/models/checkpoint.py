"""What a model folder was made for, as far as its small JSON files tell: read in the front, before a worker loads it.

The order of what is asked:
1. modules.json, which sentence-transformers writes: an embedding model, a sparse one, or a cross-encoder.
2. `architectures` of config.json, which transformers writes: the class that the checkpoint was saved from, and so its head.
3. Otherwise the folder is the base of a model, which embeds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hubwire_server.models.description import ClassificationDetails, Task

SENTENCE_MODELS = {"SentenceTransformer": Task.EMBEDDING, "SparseEncoder": Task.SPARSE_EMBEDDING, "CrossEncoder": Task.RERANK}
"""The model_type of config_sentence_transformers.json."""

HEADS = {
    "ForTokenClassification": Task.TOKEN_CLASSIFICATION,
    "ForQuestionAnswering": Task.QUESTION_ANSWERING,
    "ForQuestionAnsweringSimple": Task.QUESTION_ANSWERING,
    "ForMaskedLM": Task.FILL_MASK,
    "ForSequenceClassification": Task.TEXT_CLASSIFICATION,
}
"""The endings of the names of classes with a head."""

PIPELINES = {
    "ForImageClassification": "image-classification",
    "ForObjectDetection": "object-detection",
    "ForAudioClassification": "audio-classification",
    "ForSequenceClassificationAudio": "audio-classification",
    "ForCTC": "automatic-speech-recognition",
    "ForSpeechSeq2Seq": "automatic-speech-recognition",
    "ForDepthEstimation": "depth-estimation",
    "ForVideoClassification": "video-classification",
    "ForDocumentQuestionAnswering": "document-question-answering",
    "ForTableQuestionAnswering": "table-question-answering",
    "ForImageSegmentation": "image-segmentation",
    "ForSemanticSegmentation": "image-segmentation",
    "ForInstanceSegmentation": "image-segmentation",
    "ForUniversalSegmentation": "image-segmentation",
    "ForZeroShotImageClassification": "zero-shot-image-classification",
}
"""The endings of further ones, and the pipeline that runs them."""


def task_of(path: Path) -> tuple[Task, str]:
    """The task that a folder was made for, and for Task.PIPELINE the pipeline's name. What cannot be read is left for the loader, which
    says what is wrong."""
    sentence = _read(path / "config_sentence_transformers.json")
    config = _read(path / "config.json")
    if (path / "modules.json").exists():
        return SENTENCE_MODELS.get(str(sentence.get("model_type")), Task.EMBEDDING), ""
    architecture = _architecture(config)
    for ending, task in HEADS.items():
        if architecture.endswith(ending):
            return (_classification(config) if task is Task.TEXT_CLASSIFICATION else task), ""
    for ending, pipeline in PIPELINES.items():
        if architecture.endswith(ending):
            return Task.PIPELINE, pipeline
    return Task.EMBEDDING, ""


def _classification(config: dict[str, Any]) -> Task:
    """A sequence-classification head scores texts, entailment, or how well a document answers a query."""
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    if "sentence_transformers" in config or (count == 1 and config.get("problem_type") is None):
        return Task.RERANK
    if isinstance(labels, dict) and count > 1:
        details = ClassificationDetails(labels=tuple(map(str, labels.values())))
        if details.entailment is not None:
            return Task.ZERO_SHOT_CLASSIFICATION
    return Task.TEXT_CLASSIFICATION


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
