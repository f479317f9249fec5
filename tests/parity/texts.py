"""Texts of mixed length in several scripts, the same on every run."""

from __future__ import annotations

import random

WORDS = (
    "the quick brown fox jumps over lazy dog while seventeen curious penguins negotiate unbelievable internationalization treaties",
    "naïve café façade jalapeño Übergrößenträger smörgåsbord crème brûlée œuvre coöperate Ångström",
    "быстрая коричневая лиса прыгает через ленивую собаку несмотря на дождь",
    "敏捷的棕色狐狸跳过了懒狗 然后去了图书馆 学习机器翻译",
    "素早い茶色の狐がのろまな犬を飛び越える 東京タワー カタカナ",
    "الثعلب البني السريع يقفز فوق الكلب الكسول",
    "तेज भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है",
    "다람쥐 헌 쳇바퀴에 타고파 빠른 갈색 여우",
    "👍🏽 👩‍👩‍👧‍👦 🇨🇭 🦊 ☕️ ∑∫√ 🤷🏿‍♀️",
    "cafe\u0301 a\u030a n\u0303 o\u0308\u0323 z\u0351\u036b\u0343\u036a\u0302",
    "3.14159 -42 1e-9 user@example.org https://example.org/a?b=c#d C++ #hashtag @mention [MASK] $9,99 100%",
)


def make_texts(count: int, seed: int = 20261124) -> list[str]:
    """Texts of about 5 to a little over 256 tokens in MiniLM's tokenizer, most of them short, as in real traffic."""
    generator = random.Random(seed)
    texts = []
    for _ in range(count):
        # A text mixes at most three scripts. Words are about two tokens long.
        words = [word for line in generator.sample(WORDS, generator.randint(1, 3)) for word in line.split()]
        length = min(130, max(2, round(generator.lognormvariate(1.9, 0.95))))
        texts.append(
            generator.choice(["", "", " ", "\t"]) + " ".join(generator.choices(words, k=length)) + generator.choice(["", ".", " ?!\n"])
        )
    return texts
