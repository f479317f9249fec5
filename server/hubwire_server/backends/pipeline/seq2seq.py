"""Summaries, translations and other texts from models with an encoder and a decoder. transformers 5 has no pipelines for them any more.

What is done is what those of transformers 4 did (pipelines/text2text_generation.py): the prefix and the settings of generation that the
configuration has for a task come first, then the text is tokenized, generated from, and decoded without special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hubwire_server.backends.pipeline.parameters import generation_parameters
from hubwire_server.errors import HubwireError, Reason

OUTPUTS: Mapping[str, str] = {
    "summarization": "summary_text",
    "translation": "translation_text",
    "text2text-generation": "generated_text",
}
"""The name of the text in an answer."""
MAX_NEW_TOKENS = 256
"""How long a text gets where neither the model nor the call says. The pipelines that are left in transformers have the same."""
OWN_PARAMETERS = frozenset({"truncation", "src_lang", "tgt_lang"})


class Seq2SeqPipeline:
    """Runs a model with an encoder and a decoder: task is one of OUTPUTS, or a translation with its languages, translation_en_to_de."""

    def __init__(self, task: str, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._output = OUTPUTS[task.partition("_")[0]]
        specific = getattr(model.config, "task_specific_params", None) or {}
        settings = dict(specific.get(task) or {})
        self._prefix = settings.pop("prefix", None) or getattr(model.config, "prefix", None) or ""
        known = generation_parameters(model)
        self._settings = {name: value for name, value in settings.items() if name in known}
        self.known = frozenset(known | OWN_PARAMETERS)

    def __call__(self, text: Any, **parameters: Any) -> list[dict[str, str]]:
        """The texts generated from one text: one, or as many as num_return_sequences asks for."""
        if not isinstance(text, str):
            raise HubwireError(Reason.PIPELINE_INPUT_INVALID, "this pipeline reads texts alone")
        languages: dict[str, Any] = {name: parameters.pop(name) for name in ("src_lang", "tgt_lang") if name in parameters}
        truncation = bool(parameters.pop("truncation", False))
        inputs = self._tokenize(self._prefix + text, languages, truncation)
        settings = {**self._settings, **parameters}
        configured = self.model.generation_config
        if not any((settings.get(name) or getattr(configured, name, None)) for name in ("max_length", "max_new_tokens")):
            settings["max_new_tokens"] = MAX_NEW_TOKENS
        with torch.inference_mode():
            ids = self.model.generate(**inputs, **settings)
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [{self._output: generated} for generated in texts]

    def _tokenize(self, text: str, languages: dict[str, Any], truncation: bool) -> dict[str, Any]:
        build = getattr(self.tokenizer, "_build_translation_inputs", None)
        if languages and build is None:
            raise HubwireError(Reason.PIPELINE_INPUT_INVALID, "the model does not choose languages: src_lang and tgt_lang are not for it")
        if languages and build is not None:
            encoded = build(text, return_tensors="pt", truncation=truncation, **languages)
        else:
            encoded = self.tokenizer(text, return_tensors="pt", truncation=truncation)
        limit = self.tokenizer.model_max_length
        count = encoded["input_ids"].shape[1]
        if count > limit:
            raise HubwireError(
                Reason.TEXT_TOO_LONG, f"the text has {count} tokens and the model reads {limit}; set truncation to have it cut"
            )
        names = ("input_ids", "attention_mask", "forced_bos_token_id")
        return {name: value.to(self.model.device) if hasattr(value, "to") else value for name, value in encoded.items() if name in names}
