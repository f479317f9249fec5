"""How both clients are made and closed."""

from __future__ import annotations

import asyncio
import threading

import pytest

import hubwire

# Every method, and what it is called with.
CALLS = {
    "embed": [["one"]],
    "stream_embed": [["one"]],
    "embed_tokens": [["one"]],
    "embed_sparse": [["one"]],
    "stream_embed_sparse": [["one"]],
    "classify_text": [["one"]],
    "stream_classify_text": [["one"]],
    "classify_zero_shot": [["one"], ["label"]],
    "classify_tokens": [["one"]],
    "stream_classify_tokens": [["one"]],
    "answer_questions": [["one"], "a context"],
    "fill_mask": [["one [MASK]"]],
    "rerank": ["one", ["document"]],
    "tokenize": [["one"]],
    "detokenize": [[[1]]],
    "count_tokens": [["one"]],
    "run_pipeline": [["one"]],
    "list_pipelines": [],
    "list_models": [],
    "get_model": ["small"],
    "load_model": ["org/model"],
    "unload_model": ["small"],
    "health": [],
}
WRONG = [
    pytest.param([5], {}, TypeError, "address must be a str, not int", id="an address that is a number"),
    pytest.param([None], {}, TypeError, "address must be a str, not NoneType", id="no address"),
    pytest.param([""], {}, ValueError, "address is empty", id="an empty address"),
    pytest.param(["http://localhost:50051"], {}, ValueError, "without http://", id="a URL"),
    pytest.param(["a:1"], {"timeout_s": "3"}, TypeError, "timeout_s must be a number of seconds", id="a timeout that is text"),
    pytest.param(["a:1"], {"tls": "yes"}, TypeError, "tls must be True or False", id="tls that is text"),
    pytest.param(["a:1"], {"credentials": "secret"}, TypeError, "credentials must be a grpc.ChannelCredentials", id="a password"),
    pytest.param(["a:1"], {"metadata": [("a", "b")]}, TypeError, "metadata must map keys to values", id="metadata that is a list"),
    pytest.param(["a:1"], {"metadata": {"a": 3}}, TypeError, r"metadata\['a'\] must be a str", id="metadata of a number"),
]


def test_every_method_is_tried():
    assert set(CALLS) == {name for name in dir(hubwire.Client) if not name.startswith("_")} - {"close"}


@pytest.mark.parametrize(("arguments", "options", "error", "text"), WRONG)
def test_wrong_arguments_are_refused(connect, arguments, options, error, text):
    with pytest.raises(error, match=text):
        hubwire.Client(*arguments, **options)


@pytest.mark.parametrize(("arguments", "options", "error", "text"), WRONG)
async def test_wrong_arguments_are_refused_by_the_asyncio_client(arguments, options, error, text):
    with pytest.raises(error, match=text):
        hubwire.aio.Client(*arguments, **options)


@pytest.mark.parametrize("method", ["get_model", "load_model", "unload_model", "health"])
@pytest.mark.parametrize(("name", "error"), [(3, TypeError), (None, TypeError), ("\ud800", ValueError)])
def test_a_name_that_is_no_text_is_refused(client, fake, method, name, error):
    with pytest.raises(error, match=r"^(name|source|service) (must be a str|cannot be sent)"):
        getattr(client, method)(name)
    assert not fake.requests


@pytest.mark.parametrize("method", CALLS)
def test_a_closed_client_says_so(fake, method):
    client = hubwire.Client(fake.address)
    client.health()
    client.close()
    client.close()
    with pytest.raises(ValueError, match=r"^the client is closed$"):
        getattr(client, method)(*CALLS[method])
    with pytest.raises(ValueError, match=r"^the client is closed$"):
        client.__enter__()


@pytest.mark.parametrize("method", CALLS)
async def test_a_closed_asyncio_client_says_so(fake, method):
    client = hubwire.aio.Client(fake.address)
    await client.health()
    await client.close()
    await client.close()
    with pytest.raises(ValueError, match=r"^the client is closed$"):
        await getattr(client, method)(*CALLS[method])
    with pytest.raises(ValueError, match=r"^the client is closed$"):
        await client.__aenter__()


def test_a_stream_that_begins_after_the_client_closed_says_so(fake):
    with hubwire.Client(fake.address) as client:
        results = client.stream_embed(["one"])
    with pytest.raises(ValueError, match=r"^the client is closed$"):
        next(results)


async def test_an_asyncio_stream_that_begins_after_the_client_closed_says_so(fake):
    async with hubwire.aio.Client(fake.address) as client:
        results = client.stream_embed(["one"])
    with pytest.raises(ValueError, match=r"^the client is closed$"):
        await anext(results)


async def _first(results):
    return await anext(results)


@pytest.mark.parametrize("method", ["embed", "stream_embed", "load_model", "health"])
async def test_an_asyncio_call_under_way_when_the_client_closes_is_cancelled(fake, method):
    fake.delay_s = 1.0
    client = hubwire.aio.Client(fake.address)
    made = getattr(client, method)(*CALLS[method])
    call = asyncio.create_task(_first(made) if method == "stream_embed" else made)
    await asyncio.sleep(0.2)
    await client.close()
    with pytest.raises(hubwire.CallCancelledError):
        await call


@pytest.mark.parametrize("method", ["embed", "stream_embed", "load_model", "health"])
def test_a_call_under_way_when_the_client_closes_is_cancelled(fake, method):
    fake.delay_s = 1.0
    client = hubwire.Client(fake.address)
    threading.Timer(0.2, client.close).start()
    with pytest.raises(hubwire.CallCancelledError):
        list(getattr(client, method)(*CALLS[method]))


async def test_a_cancelled_task_is_cancelled_even_where_its_client_closes(fake):
    fake.delay_s = 1.0
    client = hubwire.aio.Client(fake.address)
    call = asyncio.create_task(client.health())
    await asyncio.sleep(0.2)
    call.cancel()
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await call
