"""Trains the head of the sentiment model, and writes it beside this file with a README that says how good it is.

    python -m hubwire_server.demo_models.train_sentiment sentence_polarity.zip

The data are the labelled sentences of Pang and Lee, as nltk distributes them (corpora/sentence_polarity.zip). A tenth of them is held out
and never trained on; the README reports the accuracy on it, of the model as it is served. It takes about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import swa_utils

from hubwire_server.models.demo import package_folder
from hubwire_server.models.demo.convert import LABELS, copy_tokenizer, sentiment
from hubwire_server.models.demo.tensor_file import write_tensors

SPLIT_SEED = 7
"""Decides which sentences are held out. Settings are chosen without them."""

HELD_OUT = 0.1
SEED = 1
EPOCHS = 10
BATCH = 64
DROPOUT = 0.5
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.1
AVERAGE = 0.995
"""How much of the averaged weights a step keeps: the average is what is used, since single steps still jump about. This and the settings
above were chosen on parts of the sentences that are trained on, as --validate does, without the ones that are held out.
"""

README = """\
# The head of the sentiment model

`sentiment_head.safetensors` ({kilobytes:.0f} kB, float16) turns the first {layers} layers of all-MiniLM-L6-v2, which stay as they are,
into a classifier of sentences: {labels}. `demo:sentiment` is both of them together, as a `BertForSequenceClassification`;
`models/demo/sentiment_head.py` says how the head is built.

| what | value |
|---|---|
| accuracy on the held-out sentences | {accuracy:.4f} ({right} of {held_out}) |
| sentences trained on | {trained} |
| epochs, batch, dropout | {epochs}, {batch}, {dropout} |
| learning rate, weight decay, averaging of the weights | {learning_rate}, {weight_decay}, {average} |
| seeds of the split and of the training | {split_seed}, {seed} |
| torch | {torch} |

Half of the sentences are positive. The accuracy is that of the folder that is served, loaded by transformers. The settings were chosen on
other sentences than the held-out ones (`--validate`). The held-out ones have been looked at twice: an earlier choice of settings, without
the averaging, fell short of the 0.78 that is asked for, and better ones were looked for on the sentences that are trained on.

Data: sentence polarity dataset 1.0 by Bo Pang and Lillian Lee, licensed under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), as
nltk distributes it; "Seeing stars: Exploiting class relationships for sentiment categorization with respect to rating scales", ACL 2005.
The sentences are from film reviews in English of before 2005, and the model knows nothing else: it has no neutral class.

This file and the head are written by `python -m hubwire_server.demo_models.train_sentiment sentence_polarity.zip`.
"""


@dataclass(frozen=True, slots=True)
class Sentences:
    """Labelled sentences. labels (n,) holds 1 for a positive one and 0 for a negative one."""

    texts: list[str]
    labels: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Sentences:
        """Some of them, in the order of rows."""
        return Sentences([self.texts[row] for row in rows], self.labels[rows])


def read_sentences(path: Path) -> Sentences:
    """All sentences of the zip file. Raises OSError, KeyError and zipfile.BadZipFile where it is another one."""
    texts, labels = [], []
    with zipfile.ZipFile(path) as archive:
        for label, name in ((1, "pos"), (0, "neg")):
            lines = archive.read(f"sentence_polarity/rt-polarity.{name}").decode("utf-8").split("\n")
            found = [line.strip() for line in lines if line.strip()]
            texts += found
            labels += [label] * len(found)
    return Sentences(texts, np.array(labels, np.int64))


def split(sentences: Sentences, seed: int = SPLIT_SEED) -> tuple[Sentences, Sentences]:
    """The sentences that are trained on, and the tenth that is held out: the same ones for the same seed."""
    order = torch.randperm(len(sentences.texts), generator=torch.Generator().manual_seed(seed)).numpy()
    held_out = int(len(order) * HELD_OUT)
    return sentences.take(order[held_out:]), sentences.take(order[:held_out])


class Head(nn.Module):
    """What is trained: the layer that gathers from all tokens, as sentiment_head.py writes it out, the pooler and the classifier."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.key = nn.Linear(hidden, heads, bias=False)
        self.value = nn.Linear(hidden, hidden)
        self.pooler = nn.Linear(hidden, hidden)
        self.classifier = nn.Linear(hidden, len(LABELS))
        self.dropout = nn.Dropout(DROPOUT)
        # At first every head takes the mean of its part of the tokens' vectors.
        nn.init.zeros_(self.key.weight)
        nn.init.eye_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """states (texts, tokens, hidden), mask (texts, tokens) true for tokens. Returns logits (texts, labels)."""
        texts, tokens, hidden = states.shape
        weights = self.key(states).masked_fill(~mask[..., None], float("-inf")).softmax(1)
        values = self.value(self.dropout(states)).view(texts, tokens, self.heads, -1)
        gathered = torch.einsum("bth,bthd->bhd", weights, values).reshape(texts, hidden)
        first = nn.functional.layer_norm(states[:, 0] + gathered, (hidden,), eps=1e-12)
        logits: Tensor = self.classifier(self.dropout(torch.tanh(self.pooler(self.dropout(first)))))
        return logits

    def tensors(self) -> dict[str, NDArray[np.float16]]:
        """The tensors as the file has them (sentiment_head.STORED)."""
        names = {"key": "attention.key", "value": "attention.value", "pooler": "pooler.dense", "classifier": "classifier"}
        tensors = {}
        for name, parameter in self.named_parameters():
            module, _, part = name.partition(".")
            tensors[f"{names[module]}.{part}"] = parameter.detach().numpy().astype(np.float16)
        return tensors


def hidden_states(package: Path, texts: Sequence[str]) -> list[Tensor]:
    """What the head reads of each text: the states (tokens, hidden) before the last layer of the model, float16."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(package)
    model = AutoModel.from_pretrained(package, dtype=torch.float32).eval()
    states: list[Tensor] = [torch.empty(0)] * len(texts)
    with torch.inference_mode():
        for rows in _by_length(texts):
            encoded = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
            before_last = model(**encoded, output_hidden_states=True).hidden_states[-2].half()
            for row, state, length in zip(rows, before_last, encoded["attention_mask"].sum(1).tolist(), strict=True):
                states[row] = state[:length].clone()
    return states


def train(states: Sequence[Tensor], labels: NDArray[np.int64], heads: int) -> Iterator[Head]:
    """Trains a head, and yields the average of its weights after each epoch, in eval mode."""
    torch.manual_seed(SEED)
    head = Head(states[0].shape[1], heads)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-len(states) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    averaged = swa_utils.AveragedModel(head, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(AVERAGE))  # type: ignore[no-untyped-call]  # torch is typed in part
    wanted = torch.from_numpy(labels)
    for _ in range(EPOCHS):
        head.train()
        for rows in torch.randperm(len(states)).split(BATCH):  # type: ignore[no-untyped-call]  # torch is typed in part
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(*_padded([states[row] for row in rows])), wanted[rows]).backward()  # type: ignore[no-untyped-call]  # as above
            optimizer.step()
            schedule.step()
            averaged.update_parameters(head)
        average = averaged.module.eval()
        assert isinstance(average, Head)
        yield average


def predict(folder: Path, texts: Sequence[str]) -> NDArray[np.int64]:
    """What the model in a folder says of each text: the number of its label."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    predicted = np.empty(len(texts), np.int64)
    with torch.inference_mode():
        for rows in _by_length(texts):
            encoded = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
            predicted[rows] = model(**encoded).logits.argmax(-1).numpy()
    return predicted


def main(argv: Sequence[str] | None = None) -> int:
    """Trains the head and writes it, or says what --validate finds."""
    parser = argparse.ArgumentParser(prog="train_sentiment", allow_abbrev=False, description="Train the head of the sentiment model.")
    parser.add_argument("data", type=Path, help="sentence_polarity.zip of nltk_data")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent, help="where the head and its README go (default: beside this file)"
    )
    parser.add_argument("--validate", action="store_true", help="print what settings are chosen by, and write nothing")
    args = parser.parse_args(argv)
    trained, held_out = split(read_sentences(args.data))
    package, _ = package_folder("sentiment")
    if args.validate:
        _validate(package, trained)
        return 0
    config = _config(package)
    *_, head = train(hidden_states(package, trained.texts), trained.labels, config.num_attention_heads)
    file = args.output / "sentiment_head.safetensors"
    write_tensors(file, head.tensors())
    with tempfile.TemporaryDirectory() as folder:
        sentiment(package, Path(folder), file)
        copy_tokenizer(package, Path(folder))
        right = int((predict(Path(folder), held_out.texts) == held_out.labels).sum())
    text = README.format(
        kilobytes=file.stat().st_size / 1e3,
        layers=config.num_hidden_layers - 1,
        labels=" or ".join(LABELS),
        accuracy=right / len(held_out.texts),
        right=right,
        held_out=len(held_out.texts),
        trained=len(trained.texts),
        epochs=EPOCHS,
        batch=BATCH,
        dropout=DROPOUT,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        average=AVERAGE,
        split_seed=SPLIT_SEED,
        seed=SEED,
        torch=torch.__version__.partition("+")[0],
    )
    (args.output / "README.md").write_text(text, encoding="utf-8")
    print(f"{right} of {len(held_out.texts)} held-out sentences are classified right: {right / len(held_out.texts):.4f}")
    return 0


def _validate(package: Path, sentences: Sentences) -> None:
    """Prints, after each epoch, the accuracy on a tenth of the sentences, which are left out of the training for this."""
    trained, checked = split(sentences)
    states = hidden_states(package, checked.texts)
    for epoch, head in enumerate(train(hidden_states(package, trained.texts), trained.labels, _config(package).num_attention_heads)):
        with torch.inference_mode():
            found = torch.cat([head(*_padded(states[start : start + BATCH])).argmax(-1) for start in range(0, len(states), BATCH)])
        print(f"epoch {epoch + 1}: {(found.numpy() == checked.labels).mean():.4f} of {len(states)}")


def _config(package: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(package)


def _by_length(texts: Sequence[str]) -> Iterator[NDArray[np.int64]]:
    """The places of the texts in batches of about equal length."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def _padded(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The states of some texts as one rectangle in float32, and its mask."""
    lengths = torch.tensor([len(state) for state in states])
    return nn.utils.rnn.pad_sequence(list(states), batch_first=True).float(), torch.arange(int(lengths.max())) < lengths[:, None]


if __name__ == "__main__":
    sys.exit(main())
