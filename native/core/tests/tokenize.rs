//! Tokenization against the `tokenizers` library.

mod common;

use common::Random;
use hubwire_core::Reason;
use hubwire_core::ragged::RaggedBatch;
use hubwire_core::tokenize::{OffsetUnit, Options, PairTruncation, Tokenizer, TruncationSide};
use tokenizers::{Encoding, Tokenizer as Inner, TruncationDirection, TruncationParams, TruncationStrategy};

/// A small tokenizer of words, with a truncation and a padding that must not be used.
const WORD_PIECE: &str = r###"{
    "version": "1.0",
    "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
    "added_tokens": [
        {"id": 2, "content": "[SEP]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
    ],
    "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
                 {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
        "special_tokens": {
            "[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]},
            "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}
        }
    },
    "decoder": null,
    "model": {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "a": 4, "##a": 5, "b": 6, "##b": 7, "naive": 8, "日": 9, "!": 10}
    }
}"###;

/// A model that knows one word and has no name for the others, so that it fails on them.
const WORD_LEVEL: &str = r#"{
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "vocab": {"known": 0}, "unk_token": "[UNK]"}
}"#;

const WORDS: [&str; 10] = ["a", "ab", "baabab", "naïve", "日本", "!", "[SEP]", "zzz", "😀a", "e\u{301}"];

fn options() -> Options {
    Options {
        add_special_tokens: true,
        max_tokens: None,
        truncation_side: TruncationSide::Right,
        truncation: PairTruncation::LongestFirst,
        stride: None,
        spans: None,
        threads: 1,
    }
}

fn text(random: &mut Random, words: usize) -> String {
    (0..random.below(words + 1)).map(|_| random.pick(&WORDS)).collect::<Vec<_>>().join(" ")
}

fn row(batch: &RaggedBatch, index: usize) -> std::ops::Range<usize> {
    usize::try_from(batch.offsets[index]).unwrap()..usize::try_from(batch.offsets[index + 1]).unwrap()
}

/// What the library makes of one text or pair: every side is tokenized in full, and cut while special tokens are added. Returns the number
/// of tokens before that as well.
fn reference(text: &str, pair: Option<&str>, options: &Options) -> (Encoding, usize) {
    let mut library: Inner = WORD_PIECE.parse().unwrap();
    library.with_padding(None);
    library.with_truncation(None).unwrap();
    let [first, second] = [Some(text), pair].map(|text| text.map(|text| library.encode_char_offsets(text, false).unwrap()));
    let uncut = library.post_process(first.clone().unwrap(), second.clone(), options.add_special_tokens).unwrap();
    let direction = match options.truncation_side {
        TruncationSide::Left => TruncationDirection::Left,
        TruncationSide::Right => TruncationDirection::Right,
    };
    let truncation = options.max_tokens.map(|max_length| TruncationParams { max_length, direction, ..Default::default() });
    library.with_truncation(truncation).unwrap();
    (library.post_process(first.unwrap(), second, options.add_special_tokens).unwrap(), uncut.len())
}

#[test]
fn encodes_and_cuts_as_the_library_does() {
    let tokenizer = Tokenizer::from_json(WORD_PIECE.as_bytes()).unwrap();
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let count = random.below(6);
        let texts: Vec<String> = (0..count).map(|_| text(&mut random, 12)).collect();
        let others: Vec<String> = (0..count).map(|_| text(&mut random, 12)).collect();
        let pairs = random.chance().then_some(&others[..]);
        let options = Options {
            add_special_tokens: random.chance(),
            max_tokens: random.chance().then(|| 4 + random.below(16)),
            truncation_side: random.pick(&[TruncationSide::Left, TruncationSide::Right]),
            spans: random.chance().then_some(OffsetUnit::CodePoint),
            threads: 1 + random.below(3),
            ..options()
        };
        let batch = tokenizer.encode(&texts, pairs, &options).unwrap();
        assert_eq!((batch.offsets.len(), batch.token_counts.len()), (count + 1, count));
        for index in 0..count {
            let (wanted, token_count) = reference(&texts[index], pairs.map(|pairs| &pairs[index][..]), &options);
            assert_eq!(batch.token_counts[index], i64::try_from(token_count).unwrap(), "seed {seed}");
            let range = row(&batch, index);
            let ids: Vec<u32> = batch.ids[range.clone()].iter().map(|id| id.cast_unsigned()).collect();
            let type_ids: Vec<u32> = batch.type_ids[range.clone()].iter().map(|id| id.cast_unsigned()).collect();
            assert_eq!(ids, wanted.get_ids(), "seed {seed}, {options:?}, {:?}", texts[index]);
            assert_eq!(type_ids, wanted.get_type_ids(), "seed {seed}");
            if let Some(positions) = &batch.positions {
                let spans: Vec<_> = positions.spans[range.clone()].iter().map(|span| (span[0] as usize, span[1] as usize)).collect();
                assert_eq!(spans, wanted.get_offsets(), "seed {seed}");
                let mask: Vec<u32> = positions.special_tokens_mask[range].iter().map(|special| u32::from(*special)).collect();
                assert_eq!(mask, wanted.get_special_tokens_mask(), "seed {seed}");
            }
        }
    }
}

#[test]
fn of_two_texts_the_longer_is_cut_first_and_gets_the_odd_token() {
    let tokenizer = Tokenizer::from_json(WORD_PIECE.as_bytes()).unwrap();
    for counts in [(1, 1), (3, 30), (30, 3), (8, 8), (10, 9), (9, 10), (50, 40), (40, 50)] {
        let (left, right) = (vec!["a"; counts.0].join(" "), vec!["b"; counts.1].join(" "));
        for max_tokens in 4..70 {
            for truncation_side in [TruncationSide::Left, TruncationSide::Right] {
                let options = Options { max_tokens: Some(max_tokens), truncation_side, ..options() };
                let (wanted, _) = reference(&left, Some(&right), &options);
                let batch = tokenizer.encode(&[&left], Some(&[&right]), &options).unwrap();
                let ids: Vec<u32> = batch.ids.iter().map(|id| id.cast_unsigned()).collect();
                assert_eq!(ids, wanted.get_ids(), "{counts:?} in {max_tokens}");
            }
        }
    }
}

#[test]
fn many_threads_give_what_one_gives() {
    let tokenizer = Tokenizer::from_json(WORD_PIECE.as_bytes()).unwrap();
    let mut random = Random::new(7);
    let texts: Vec<String> = (0..301).map(|_| text(&mut random, 60)).collect();
    let one = tokenizer.encode(&texts, None, &Options { spans: Some(OffsetUnit::Utf8Byte), ..options() }).unwrap();
    for threads in [2, 3, 64, usize::MAX] {
        let many = tokenizer.encode(&texts, None, &Options { spans: Some(OffsetUnit::Utf8Byte), threads, ..options() }).unwrap();
        assert_eq!(one, many);
    }
}

#[test]
fn spans_cut_the_same_text_out_in_every_unit() {
    let tokenizer = Tokenizer::from_json(WORD_PIECE.as_bytes()).unwrap();
    for text in ["plain ab", "naïve 日本 😀a e\u{301} ab", "😀 [SEP] 日", ""] {
        let spans = |unit| tokenizer.encode(&[text], None, &Options { spans: Some(unit), ..options() }).unwrap().positions.unwrap().spans;
        let characters: Vec<char> = text.chars().collect();
        let units: Vec<u16> = text.encode_utf16().collect();
        for ((points, bytes), utf16) in
            spans(OffsetUnit::CodePoint).into_iter().zip(spans(OffsetUnit::Utf8Byte)).zip(spans(OffsetUnit::Utf16Unit))
        {
            let wanted: String = characters[points[0] as usize..points[1] as usize].iter().collect();
            assert_eq!(text.get(bytes[0] as usize..bytes[1] as usize), Some(&wanted[..]));
            assert_eq!(String::from_utf16(&units[utf16[0] as usize..utf16[1] as usize]).unwrap(), wanted);
        }
    }
}

#[test]
fn empty_lists_and_empty_texts_are_no_error() {
    let tokenizer = Tokenizer::from_json(WORD_PIECE.as_bytes()).unwrap();
    let batch = tokenizer.encode::<&str>(&[], None, &options()).unwrap();
    assert_eq!((batch.ids, batch.offsets), (vec![], vec![0]));
    let batch = tokenizer.encode(&["", "\0", ""], None, &options()).unwrap();
    assert_eq!((batch.ids, batch.offsets, batch.token_counts), (vec![1, 2, 1, 2, 1, 2], vec![0, 2, 4, 6], vec![2; 3]));
    let batch = tokenizer.encode(&[""], Some(&["a"]), &options()).unwrap();
    assert_eq!(batch.ids, [1, 2, 4, 2]);
}

#[test]
fn a_limit_without_room_is_refused() {
    let tokenizer = Tokenizer::from_json(WORD_PIECE.as_bytes()).unwrap();
    for (max_tokens, pair, add_special_tokens) in [(0, false, false), (2, false, true), (3, true, true), (0, true, true)] {
        let options = Options { max_tokens: Some(max_tokens), add_special_tokens, ..options() };
        let error = tokenizer.encode(&["a"], pair.then_some(&["b"][..]), &options).unwrap_err();
        assert_eq!((error.reason, error.index), (Reason::OutOfRange, None));
    }
}

#[test]
fn lists_of_different_lengths_are_refused() {
    let tokenizer = Tokenizer::from_json(WORD_PIECE.as_bytes()).unwrap();
    let error = tokenizer.encode(&["a", "b"], Some(&["a"]), &options()).unwrap_err();
    assert_eq!((error.reason, error.index), (Reason::ShapeMismatch, None));
}

#[test]
fn a_failure_of_the_model_names_the_text() {
    let tokenizer = Tokenizer::from_json(WORD_LEVEL.as_bytes()).unwrap();
    let mut texts = vec!["known"; 2000];
    texts[1234] = "unknown";
    texts[1900] = "unknown";
    for threads in [1, 4] {
        let error = tokenizer.encode(&texts, None, &Options { threads, ..options() }).unwrap_err();
        assert_eq!((error.reason, error.index), (Reason::TokenizationFailed, Some(1234)));
    }
}

#[test]
fn a_panic_of_the_library_names_the_text() {
    // The second of two templates meets more parts than it knows of, which the library has left as a todo.
    let template = r#"{"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "x", "type_id": 0}},
        {"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [], "special_tokens": {"x": {"id": "x", "ids": [0], "tokens": ["x"]}}}"#;
    let sequence = format!(r#""post_processor": {{"type": "Sequence", "processors": [{template}, {template}]}}"#);
    let json = WORD_LEVEL.replace(r#""post_processor": null"#, &sequence);
    let tokenizer = Tokenizer::from_json(json.as_bytes()).unwrap();
    let error = tokenizer.encode(&["known"], None, &options()).unwrap_err();
    assert_eq!((error.reason, error.index), (Reason::TokenizationFailed, Some(0)));
    assert!(error.message.contains("panicked"), "{error}");
}

#[test]
fn what_is_no_tokenizer_is_refused() {
    for json in ["", "{}", "null", "{\"version\": \"1.0\"}", "not json"] {
        assert_eq!(Tokenizer::from_json(json.as_bytes()).unwrap_err().reason, Reason::InvalidTokenizer, "{json}");
    }
    assert_eq!(Tokenizer::from_json(&[0xff, 0xfe]).unwrap_err().reason, Reason::InvalidTokenizer);
}

#[test]
fn special_tokens_and_the_vocabulary_are_counted() {
    let tokenizer = Tokenizer::from_json(WORD_PIECE.as_bytes()).unwrap();
    assert_eq!((tokenizer.count_special_tokens(false), tokenizer.count_special_tokens(true)), (2, 3));
    assert_eq!(tokenizer.vocab_size(), 11);
    assert_eq!(Tokenizer::from_json(WORD_LEVEL.as_bytes()).unwrap().count_special_tokens(false), 0);
}

/// The windows of a text or pair, as the library makes them of what overflows while special tokens are added.
fn windows(text: &str, pair: Option<&str>, max_length: usize, stride: usize, side: TruncationSide) -> Vec<Vec<u32>> {
    let mut library: Inner = WORD_PIECE.parse().unwrap();
    library.with_padding(None);
    library.with_truncation(None).unwrap();
    let [first, second] = [Some(text), pair].map(|text| text.map(|text| library.encode(text, false).unwrap()));
    let direction = if side == TruncationSide::Left { TruncationDirection::Left } else { TruncationDirection::Right };
    let strategy = if pair.is_some() { TruncationStrategy::OnlySecond } else { TruncationStrategy::LongestFirst };
    library.with_truncation(Some(TruncationParams { max_length, direction, strategy, stride })).unwrap();
    let whole = library.post_process(first.unwrap(), second, true).unwrap();
    std::iter::once(&whole).chain(whole.get_overflowing()).map(|window| window.get_ids().to_vec()).collect()
}

#[test]
fn windows_are_those_of_the_library() {
    let tokenizer = Tokenizer::from_json(WORD_PIECE.as_bytes()).unwrap();
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let (question, long) = (text(&mut random, 3), text(&mut random, 40));
        let stride = random.below(4);
        // The longest question has 18 tokens.
        let options = Options {
            max_tokens: Some(22 + stride + random.below(9)),
            truncation_side: random.pick(&[TruncationSide::Left, TruncationSide::Right]),
            truncation: PairTruncation::OnlySecond,
            stride: Some(stride),
            ..options()
        };
        for pair in [false, true] {
            let (first, second) = if pair { (&question, Some(&long[..])) } else { (&long, None) };
            let wanted = windows(first, second, options.max_tokens.unwrap(), stride, options.truncation_side);
            let batch = tokenizer.encode(&["", first], pair.then_some(&["", &long]), &options).unwrap();
            let found: Vec<Vec<u32>> = (1..batch.offsets.len() - 1)
                .map(|index| batch.ids[row(&batch, index)].iter().map(|id| id.cast_unsigned()).collect())
                .collect();
            assert_eq!(found, wanted, "seed {seed}");
            let sources: Vec<i64> = std::iter::once(0).chain(wanted.iter().map(|_| 1)).collect();
            assert_eq!(batch.sources, sources);
        }
    }
}

#[test]
fn a_window_without_room_for_more_than_the_stride_is_refused() {
    let tokenizer = Tokenizer::from_json(WORD_PIECE.as_bytes()).unwrap();
    let refused = |pairs: Option<&[&str]>, truncation, stride| {
        let options = Options { max_tokens: Some(8), truncation, stride, ..options() };
        let error = tokenizer.encode(&["a b", "a a a a"], pairs, &options).unwrap_err();
        (error.reason, error.index)
    };
    let long = "a a a a a a a a a a";
    assert_eq!(refused(None, PairTruncation::LongestFirst, Some(6)), (Reason::OutOfRange, None));
    assert_eq!(refused(Some(&[long, long]), PairTruncation::OnlySecond, Some(1)), (Reason::OutOfRange, Some(1)));
    assert_eq!(refused(Some(&["a", long]), PairTruncation::OnlyFirst, None), (Reason::OutOfRange, Some(1)));
}

#[test]
fn ids_become_tokens_and_texts_again() {
    let tokenizer = Tokenizer::from_json(WORD_PIECE.as_bytes()).unwrap();
    assert_eq!(tokenizer.tokens(&[1, 8, 5]).unwrap(), ["[CLS]", "naive", "##a"]);
    assert_eq!(tokenizer.tokens(&[1, 11]).unwrap_err().index, Some(1));
    assert_eq!(tokenizer.decode(&[4, 2, 6], &[0, 2, 2, 3], true).unwrap(), ["a", "", "b"]);
    assert_eq!(tokenizer.decode(&[4, 2, 6], &[0, 2, 3], false).unwrap(), ["a [SEP]", "b"]);
    let error = tokenizer.decode(&[4, -2], &[0, 1, 2], true).unwrap_err();
    assert_eq!((error.reason, error.index), (Reason::OutOfRange, Some(1)));
    assert_eq!((tokenizer.token_to_id("naive"), tokenizer.token_to_id("zzz")), (Some(8), None));
    assert_eq!(tokenizer.token_lengths().unwrap(), [5, 5, 5, 5, 1, 3, 1, 3, 5, 1, 1]);
}

#[test]
fn words_keep_their_numbers_and_their_own_positions() {
    let tokenizer = Tokenizer::from_json(WORD_PIECE.as_bytes()).unwrap();
    let texts = [vec!["ab", "", "日本"], vec![]];
    let batch = tokenizer.encode_words(&texts, &Options { spans: Some(OffsetUnit::Utf8Byte), ..options() }).unwrap();
    let positions = batch.positions.unwrap();
    assert_eq!(batch.ids, [1, 4, 7, 9, 3, 2, 1, 2]);
    assert_eq!(positions.word_ids, [-1, 0, 0, 2, 2, -1, -1, -1]);
    assert_eq!(positions.spans, [[0, 0], [0, 1], [1, 2], [0, 3], [3, 6], [0, 0], [0, 0], [0, 0]]);
}
