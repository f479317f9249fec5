"""Real models that come inside Python packages, as folders of transformers; texts for them; and a server that holds them all.

Two of them read chemical reactions: rxnfp names the class of one (a BERT, 50 classes), rxnmapper fills in its atoms (an ALBERT). Their
packages hold pickled tensors and a vocabulary, from long before tokenizer.json. The third, of `hubwire serve --demo`, finds personal data.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hubwire.v1 import model_pb2, model_pb2_grpc
from hubwire_server.models import demo
from hubwire_server.settings import ModelArgument, Settings
from tests.conftest import Server, serve
from tests.parity.sequence_heads import Head

SMILES = r"\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|%[0-9]{2}|[0-9]"
"""A token of a reaction, as both packages define it (rxnmapper/smiles_utils.py, rxnfp/tokenization.py)."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_TOKENS = 512
CLASSES = 50

REACTIONS, ATOMS, ENTITIES = "reactions", "atoms", "entities"
TASKS: Mapping[str, str] = {REACTIONS: "text_classification", ATOMS: "fill_mask", ENTITIES: "token_classification"}
"""What each model is served for."""

_AUTO_CLASSES: Mapping[str, Any] = {
    REACTIONS: transformers.AutoModelForSequenceClassification,
    ATOMS: transformers.AutoModelForMaskedLM,
    ENTITIES: transformers.AutoModelForTokenClassification,
}


def real_heads(folder: Path) -> dict[str, Head]:
    """All of the models by name, their folders made under a folder."""
    paths = {
        REACTIONS: reaction_folder("rxnfp", "rxnfp/models/transformers/bert_ft_10k_25s", folder / REACTIONS),
        ATOMS: reaction_folder("rxnmapper", "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k", folder / ATOMS),
        ENTITIES: demo.build("entities", folder),
    }
    return {name: read_head(name, path) for name, path in paths.items()}


def read_head(name: str, path: Path) -> Head:
    """A model as transformers reads it, with every weight from its checkpoint."""
    model, info = _AUTO_CLASSES[name].from_pretrained(path, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    tokenizer.model_max_length = min(tokenizer.model_max_length, MAX_TOKENS)  # rampart's folder leaves it open
    return Head(name, path, model.eval(), tokenizer)


def reaction_folder(package: str, source: str, target: Path) -> Path:
    """Writes the checkpoint in an installed package as a plain folder: config.json, model.safetensors and tokenizer.json.

    The configuration of rxnfp names two of its classes alone, and has no names for them: they are LABEL_0 and so on.
    """
    shipped = Path(str(distribution(package).locate_file(source)))
    target.mkdir()
    tensors = torch.load(shipped / "pytorch_model.bin", map_location="cpu", weights_only=True)
    # Clones, since a file of safetensors holds no two names of one tensor.
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, target / "model.safetensors", {"format": "pt"})
    config = json.loads((shipped / "config.json").read_text(encoding="utf-8"))
    if "classifier.weight" in tensors:
        assert len(tensors["classifier.weight"]) == config.pop("num_labels") == CLASSES
        config["id2label"] = {str(index): f"LABEL_{index}" for index in range(CLASSES)}
        config["label2id"] = {f"LABEL_{index}": index for index in range(CLASSES)}
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    reaction_tokenizer((shipped / "vocab.txt").read_text(encoding="utf-8").splitlines()).save_pretrained(target)
    return target


def reaction_tokenizer(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    """The tokenizer of both packages: each match of SMILES is a token, whole."""
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(SMILES), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_TOKENS, **names)


@contextmanager
def real_server(heads: Mapping[str, Head], backend: str, cache: Path) -> Iterator[Server]:
    """A server that holds all of the models in one worker, in float32."""
    arguments = tuple(ModelArgument(str(head.path), name, task=TASKS[name]) for name, head in heads.items())
    with serve(settings=Settings(models=arguments, backend=backend, dtype="float32", cache_dir=cache, shutdown_grace_s=1)) as server:
        listed = model_pb2_grpc.ModelServiceStub(server.channel).ListModels(model_pb2.ListModelsRequest(), timeout=10).models
        assert {model.name for model in listed} == set(heads)
        for model in listed:
            assert (model.state, model.backend, model.dtype) == (model_pb2.MODEL_STATE_READY, backend, "float32"), model
        yield server


ACIDS = ("CC(=O)O", "O=C(O)c1ccccc1", "O=C(O)c1ccc(F)cc1", "CC(C)(C)OC(=O)NCC(=O)O", "O=C(O)C=Cc1ccco1", "O=C(O)c1cnc2ccccc2c1")
AMINES = ("NCc1ccccc1", "C1COCCN1", "CN1CCNCC1", "Nc1ccc(Cl)cc1", "CC(N)C(=O)OC", "N[C@@H]1CCCC[C@H]1O", "CCCCN")
ALCOHOLS = ("CCO", "OCc1ccccc1", "CC(C)O", "OC1CCCC1", "OCCOCCO", "C=CCO", "OCC#C")
HALIDES = ("CCBr", "BrCc1ccccc1", "Clc1ncccn1", "Ic1ccc(OC)cc1", "Brc1cccc2[nH]ccc12", "FC(F)(F)c1ccc(Br)cc1", "ClCC(=O)N(C)C")
BORONATES = ("OB(O)c1ccccc1", "OB(O)c1ccc(C#N)cc1", "CC1(C)OB(c2ccsc2)OC1(C)C")
KETONES = ("CC(C)=O", "O=Cc1ccccc1", "O=C1CCCCC1", "CC(=O)c1ccc([N+](=O)[O-])cc1")
REAGENTS = ("CN(C)C=O", "ClCCl", "C1CCOC1", "[Na+].[OH-]", "[K+].[K+].O=C([O-])[O-]", "[Pd]", "[H][H]", "[BH4-].[Na+]", "O=S(Cl)Cl", "CC#N")
MOLECULES = (*ACIDS, *AMINES, *ALCOHOLS, *HALIDES, *BORONATES, *KETONES)
PARTNERS = ((ACIDS, AMINES), (ACIDS, ALCOHOLS), (HALIDES, BORONATES), (HALIDES, AMINES), (HALIDES, ALCOHOLS), (KETONES, AMINES))
"""What reacts with what, so that rxnfp sees reactions of many classes. Which product comes out is left to chance."""


def reactions(count: int, seed: int = 61) -> list[str]:
    """Reactions from 10 tokens to a few that the models have no room for: reactants, reagents before or after the first arrow, product."""
    rng = random.Random(seed)
    found = []
    for index in range(count):
        left, right = rng.choice(PARTNERS)
        reactants = [rng.choice(left), rng.choice(right), *rng.choices(REAGENTS, k=rng.choice([0, 0, 1, 2, 3]))]
        if index % 25 == 0:
            reactants += rng.choices(MOLECULES, k=rng.choice([5, 15, 60]))
        rng.shuffle(reactants)
        product = rng.choice([rng.choice(left) + rng.choice(right), rng.choice(MOLECULES)])
        found.append(f"{'.'.join(reactants)}>>{product}")
    return found


def masked_reactions(count: int, seed: int = 62) -> list[str]:
    """Reactions with one to three of their first tokens masked."""
    rng = random.Random(seed)
    masked = []
    for reaction in reactions(count, seed):
        tokens = re.findall(SMILES, reaction)
        for place in rng.sample(range(min(len(tokens), 200)), rng.choice([1, 1, 1, 2, 3])):
            tokens[place] = "[MASK]"
        masked.append("".join(tokens))
    return masked


SENTENCES = (
    "My name is {name} and I live at {number} {street}, {city} {zip}.",
    "Mail {mail} or call {phone}.",
    "{name} moved from {city} to {city}, {number} {street}, last spring; her passport is {passport}.",
    "The quarterly report is due on Friday.",
    "Wire it to account {account}, routing {routing}, attention {name}.",
    "see https://example.org/{number}/{account} ({name})",
    "SSN {ssn}",
    "Dear {name}, your licence {passport} has expired. Please write to {mail}, or visit {number} {street}, Apt {number}.",
    "« {name} » 😀 {phone} — {city}",
)
GIVEN = ("Sarah", "José", "Anaïs", "Wei", "Priya", "Omar", "Zoë", "John")
SURNAMES = ("Jones", "García", "Müller", "Chen", "O'Brien", "Haddad", "Smith-Lee")
STREETS = ("Baker Street", "Elm Ave", "Rue de la Paix", "5th Street NW", "Broadway")
CITIES = ("Boston", "Madrid", "San José", "Zürich", "New York", "Austin")


def personal_texts(count: int, seed: int = 63) -> list[str]:
    """Texts of one to twelve sentences, most of which name somebody."""
    rng = random.Random(seed)

    def digits(size: int) -> str:
        return "".join(rng.choices("0123456789", k=size))

    def sentence() -> str:
        given, surname = rng.choice(GIVEN), rng.choice(SURNAMES)
        return rng.choice(SENTENCES).format(
            name=f"{given} {surname}",
            number=rng.randint(1, 999),
            street=rng.choice(STREETS),
            city=rng.choice(CITIES),
            zip=digits(5),
            mail=f"{given}.{surname}@example.com".lower(),
            phone=f"{digits(3)}-{digits(3)}-{digits(4)}",
            passport=f"X{digits(7)}",
            account=digits(10),
            routing=digits(9),
            ssn=f"{digits(3)}-{digits(2)}-{digits(4)}",
        )

    return [" ".join(sentence() for _ in range(rng.choice([1, 1, 1, 2, 3, 12]))) for _ in range(count)]
