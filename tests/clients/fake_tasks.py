"""The services of the understanding tasks for the fake server of conftest: answers that follow from the request alone."""
# ruff: noqa: N802  # the generated stubs name the methods of a service as its proto does

from __future__ import annotations

import math
from typing import Any

import grpc
from google.protobuf import struct_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from hubwire.v1 import (
    common_pb2,
    embedding_pb2,
    fill_mask_pb2,
    fill_mask_pb2_grpc,
    pipeline_pb2,
    pipeline_pb2_grpc,
    question_answering_pb2,
    question_answering_pb2_grpc,
    rerank_pb2,
    rerank_pb2_grpc,
    text_classification_pb2,
    text_classification_pb2_grpc,
    token_classification_pb2,
    token_classification_pb2_grpc,
    tokenization_pb2,
    tokenization_pb2_grpc,
)

PNG = b"\x89PNG\r\n\x1a\n"
DEPTH = pipeline_pb2.Blob(data=bytes(range(6)), media_type="application/octet-stream", dtype="uint8", shape=[2, 3])


def empty_text() -> status_pb2.Status:
    """What the server answers for an item without characters."""
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="text has no characters")
    for detail in (
        error_details_pb2.ErrorInfo(reason="TEXT_EMPTY", domain="hubwire"),
        error_details_pb2.BadRequest(field_violations=[{"field": "text", "description": "it is empty"}]),
    ):
        status.details.add().Pack(detail)
    return status


def classification(text: str, pair: str = "") -> text_classification_pb2.Classification:
    """Two labels; the longer text and pair are, the surer "long" is."""
    share = 1 - math.exp(-(len(text) + len(pair)) / 10)
    scores = sorted([("long", share), ("short", 1 - share)], key=lambda one: -one[1])
    return text_classification_pb2.Classification(labels=[{"label": label, "score": score} for label, score in scores])


def entities(text: str, words: list[str] | None = None) -> token_classification_pb2.TokenClassification:
    """Every word with a capital letter is a name."""
    message = token_classification_pb2.TokenClassification()
    start = 0
    for place, word in enumerate(text.split(" ")):
        if word[:1].isupper():
            range_of_words = None if words is None else {"start": place, "end": place + 1}
            message.entities.add(label="NAME", score=0.75, span={"start": start, "end": start + len(word)}, text=word, words=range_of_words)
        start += len(word) + 1
    return message


def sparse(text: str, *, with_tokens: bool) -> embedding_pb2.SparseVector:
    """The characters of a text, each weighing as often as it stands there."""
    indices = sorted({ord(one) for one in text})
    values = [float(text.count(chr(one))) for one in indices]
    return embedding_pb2.SparseVector(indices=indices, values=values, tokens=map(chr, indices) if with_tokens else [])


class Classification(text_classification_pb2_grpc.TextClassificationServiceServicer):
    def __init__(self, fake: Any) -> None:
        self.fake = fake

    def ClassifyText(self, request, context):
        self.fake.begin(request, context)
        pairs = request.text_pairs or [""] * len(request.texts)
        found = [classification(text, pair) for text, pair in zip(request.texts, pairs, strict=True)]
        return text_classification_pb2.ClassifyTextResponse(classifications=found)

    def ClassifyZeroShot(self, request, context):
        self.fake.begin(request, context)
        labels = [{"label": label, "score": 1 / (2 + place)} for place, label in enumerate(request.candidate_labels)]
        return text_classification_pb2.ClassifyZeroShotResponse(classifications=[{"labels": labels} for _ in request.texts])

    def StreamClassifyText(self, request_iterator, context):
        for items in self.fake.stream(request_iterator, context):
            response = text_classification_pb2.StreamClassifyTextResponse()
            for item in items:
                result = response.results.add(id=item.id)
                if item.text:
                    result.classification.CopyFrom(classification(item.text, item.text_pair))
                else:
                    result.error.CopyFrom(empty_text())
            yield response


class TokenClassification(token_classification_pb2_grpc.TokenClassificationServiceServicer):
    def __init__(self, fake: Any) -> None:
        self.fake = fake

    def ClassifyTokens(self, request, context):
        self.fake.begin(request, context)
        found = [entities(text) for text in request.texts]
        found += [entities(" ".join(one.words), list(one.words)) for one in request.split_texts]
        return token_classification_pb2.ClassifyTokensResponse(classifications=found)

    def StreamClassifyTokens(self, request_iterator, context):
        for items in self.fake.stream(request_iterator, context):
            response = token_classification_pb2.StreamClassifyTokensResponse()
            for item in items:
                result = response.results.add(id=item.id)
                if item.text:
                    result.classification.CopyFrom(entities(item.text))
                else:
                    result.error.CopyFrom(empty_text())
            yield response


class QuestionAnswering(question_answering_pb2_grpc.QuestionAnsweringServiceServicer):
    def __init__(self, fake: Any) -> None:
        self.fake = fake

    def AnswerQuestions(self, request, context):
        """A question is answered by itself, where its context holds it."""
        self.fake.begin(request, context)
        response = question_answering_pb2.AnswerQuestionsResponse()
        contexts = list(request.contexts) * (len(request.questions) if len(request.contexts) == 1 else 1)
        for question, text in zip(request.questions, contexts, strict=True):
            answers = response.answers.add(no_answer_score=0.25)
            start = text.find(question)
            if start >= 0:
                answers.answers.add(text=question, score=0.5, span={"start": start, "end": start + len(question)})
            if request.options.allow_no_answer:
                answers.answers.add(score=0.25)
        return response


class FillMask(fill_mask_pb2_grpc.FillMaskServiceServicer):
    def __init__(self, fake: Any) -> None:
        self.fake = fake

    def FillMask(self, request, context):
        self.fake.begin(request, context)
        response = fill_mask_pb2.FillMaskResponse()
        for text in request.texts:
            filled, start = response.texts.add(), -1
            while (start := text.find("[MASK]", start + 1)) >= 0:
                mask = filled.masks.add(span={"start": start, "end": start + 6})
                for rank, token in enumerate(request.options.targets or ["one", "two"]):
                    sequence = text[:start] + token + text[start + 6 :]
                    mask.tokens.add(token=token, token_id=100 + rank, score=0.5 / (1 + rank), sequence=sequence)
        return response


class Rerank(rerank_pb2_grpc.RerankServiceServicer):
    def __init__(self, fake: Any) -> None:
        self.fake = fake

    def Rerank(self, request, context):
        """The longest document first."""
        self.fake.begin(request, context)
        order = sorted(range(len(request.documents)), key=lambda index: -len(request.documents[index]))
        ranked = [{"index": index, "score": len(request.documents[index]) / 100} for index in order]
        return rerank_pb2.RerankResponse(documents=ranked[: request.options.top_n or None])


class Tokenization(tokenization_pb2_grpc.TokenizationServiceServicer):
    """A token a character, between a start token 0 and an end token 1."""

    def __init__(self, fake: Any) -> None:
        self.fake = fake

    def Tokenize(self, request, context):
        self.fake.begin(request, context)
        response = tokenization_pb2.TokenizeResponse()
        for text in request.texts:
            message = response.texts.add(token_ids=[0, *map(ord, text), 1], token_count=len(text) + 2)
            if not request.options.ids_only:
                message.tokens.extend(["<s>", *text, "</s>"])
                message.spans.extend([common_pb2.Span(), *(common_pb2.Span(start=at, end=at + 1) for at in range(len(text)))])
                message.spans.add()
                message.special_tokens_mask.extend([True, *[False] * len(text), True])
                message.type_ids.extend([0] * (len(text) + 2))
                message.sequence_ids.extend([-1, *[0] * len(text), -1])
        return response

    def Detokenize(self, request, context):
        self.fake.begin(request, context)
        texts = ["".join(chr(one) for one in ids.token_ids if one > 1 or request.keep_special_tokens) for ids in request.texts]
        return tokenization_pb2.DetokenizeResponse(texts=texts)

    def CountTokens(self, request, context):
        self.fake.begin(request, context)
        special = 0 if request.skip_special_tokens else 2
        return tokenization_pb2.CountTokensResponse(token_counts=[len(text) + special for text in request.texts], max_tokens=8)


class Pipeline(pipeline_pb2_grpc.PipelineServiceServicer):
    """Answers what it was given. Bytes are answered with an image and an array."""

    def __init__(self, fake: Any) -> None:
        self.fake = fake

    def RunPipeline(self, request, context):
        self.fake.begin(request, context)
        response = pipeline_pb2.RunPipelineResponse(task="echo")
        for one in request.inputs:
            output = response.outputs.add()
            match one.WhichOneof("input"):
                case "text":
                    output.value.string_value = one.text
                case "fields":
                    output.value.struct_value.CopyFrom(one.fields)
                    output.blobs.extend(one.blobs)
                case "blob":
                    output.value.CopyFrom(struct_pb2.Value(list_value={"values": [{"string_value": f"blob:{n}"} for n in range(3)]}))
                    output.blobs.extend([pipeline_pb2.Blob(data=PNG, media_type="image/png"), DEPTH])
        return response

    def ListPipelines(self, request, context):
        self.fake.begin(request, context)
        better = "hubwire.v1.TextClassificationService"
        return pipeline_pb2.ListPipelinesResponse(
            tasks=[{"name": "image-classification"}, {"name": "text-classification", "service": better}]
        )


def add_services(fake: Any, server: grpc.Server) -> None:
    """Add every service of this file to a server."""
    text_classification_pb2_grpc.add_TextClassificationServiceServicer_to_server(Classification(fake), server)
    token_classification_pb2_grpc.add_TokenClassificationServiceServicer_to_server(TokenClassification(fake), server)
    question_answering_pb2_grpc.add_QuestionAnsweringServiceServicer_to_server(QuestionAnswering(fake), server)
    fill_mask_pb2_grpc.add_FillMaskServiceServicer_to_server(FillMask(fake), server)
    rerank_pb2_grpc.add_RerankServiceServicer_to_server(Rerank(fake), server)
    tokenization_pb2_grpc.add_TokenizationServiceServicer_to_server(Tokenization(fake), server)
    pipeline_pb2_grpc.add_PipelineServiceServicer_to_server(Pipeline(fake), server)
