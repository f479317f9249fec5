//! Two tokenizers with small vocabularies, one of each kind that encoders have: words in pieces, and pairs of bytes.

use hubwire_core::tokenize::Tokenizer;

/// Words that the vocabularies hold whole; what else there is falls into pieces.
const KNOWN: [&str; 9] = ["the", "of", "and", "vector", "token", "server", "quick", "international", "naive"];
/// What else the words in pieces know, beside the letters.
const MORE_PIECES: [&str; 20] = [
    "##ization",
    "##s",
    "##ably",
    "un",
    "##believ",
    "mu",
    "##ller",
    "##ude",
    "20",
    "##24",
    "日",
    "本",
    "東",
    "п",
    "##ри",
    ".",
    ",",
    "(",
    ")",
    "'",
];

/// A tokenizer as BERT has it.
pub fn word_piece() -> Tokenizer {
    let letters = ('a'..='z').chain('0'..='9').flat_map(|letter| [letter.to_string(), format!("##{letter}")]);
    let special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"].map(str::to_owned);
    let vocabulary: Vec<String> =
        special.into_iter().chain(letters).chain([&KNOWN[..], &MORE_PIECES[..]].concat().into_iter().map(str::to_owned)).collect();
    tokenizer(&Parts {
        special: [(1, "[CLS]"), (2, "[SEP]")],
        normalizer: r#"{"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}"#,
        pre_tokenizer: r#"{"type": "BertPreTokenizer"}"#,
        post_processor: r#"{"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}"#,
        decoder: r###"{"type": "WordPiece", "prefix": "##", "cleanup": true}"###,
        model: &format!(
            r###"{{"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                "vocab": {{{}}}}}"###,
            numbered(&vocabulary)
        ),
    })
}

/// A tokenizer as `RoBERTa` has it.
pub fn byte_pair() -> Tokenizer {
    // The characters that stand for bytes: the printable ones for themselves, the others in their order from 256 on.
    let (printable, others): (Vec<u32>, Vec<u32>) = (0..256).partition(|byte| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff));
    let bytes = printable.into_iter().chain((256..).take(others.len())).map(|code| char::from_u32(code).unwrap().to_string());
    let mut vocabulary: Vec<String> = ["<s>", "<pad>", "</s>"].map(str::to_owned).into_iter().chain(bytes).collect();
    // Each known word, alone and after a space, is put together from left to right.
    let mut merges = Vec::new();
    for word in KNOWN.iter().flat_map(|word| [(*word).to_owned(), format!("Ġ{word}")]) {
        let mut left = String::new();
        for letter in word.chars() {
            let piece = format!("{left}{letter}");
            if !left.is_empty() && !vocabulary.contains(&piece) {
                merges.push(format!("[{}, {}]", quoted(&left), quoted(&letter.to_string())));
                vocabulary.push(piece.clone());
            }
            left = piece;
        }
    }
    let byte_level = r#"{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}"#;
    tokenizer(&Parts {
        special: [(0, "<s>"), (2, "</s>")],
        normalizer: "null",
        pre_tokenizer: byte_level,
        post_processor: r#"{"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true, "add_prefix_space": false}"#,
        decoder: byte_level,
        model: &format!(
            r#"{{"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "vocab": {{{}}}, "merges": [{}]}}"#,
            numbered(&vocabulary),
            merges.join(", ")
        ),
    })
}

/// What a tokenizer is made of: the special tokens, and the parts in JSON.
struct Parts<'a> {
    special: [(usize, &'a str); 2],
    normalizer: &'a str,
    pre_tokenizer: &'a str,
    post_processor: &'a str,
    decoder: &'a str,
    model: &'a str,
}

fn tokenizer(parts: &Parts) -> Tokenizer {
    let Parts { special, normalizer, pre_tokenizer, post_processor, decoder, model } = parts;
    let added = special.map(|(id, token)| {
        format!(
            r#"{{"id": {id}, "content": "{token}", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}}"#
        )
    });
    let json = format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [{}], "normalizer": {normalizer},
            "pre_tokenizer": {pre_tokenizer}, "post_processor": {post_processor}, "decoder": {decoder}, "model": {model}}}"#,
        added.join(", ")
    );
    Tokenizer::from_json(json.as_bytes()).unwrap()
}

/// The entries of a JSON object that numbers pieces.
fn numbered(pieces: &[String]) -> String {
    let entries: Vec<String> = pieces.iter().enumerate().map(|(id, piece)| format!("{}: {id}", quoted(piece))).collect();
    entries.join(", ")
}

/// A piece as a JSON string. None of them holds a control character.
fn quoted(piece: &str) -> String {
    format!("\"{}\"", piece.replace('\\', r"\\").replace('"', "\\\""))
}
