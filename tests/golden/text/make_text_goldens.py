#!/usr/bin/env python3
"""Makes the golden vectors of lib/model/text with the libraries the models were trained and served with.

  tokenizers (Hugging Face)  DeepSeek-V3's tokenizer, and a small one with the same pre-tokenizer trained here
  tiktoken                   a small vocabulary trained here, split by Kimi-K2's pattern
  jinja2                     chat templates, in the environment transformers makes

Usage: make_text_goldens.py [--out FOLDER] DATA_DIR      (the folder with tokenizer_deepseek_v3, mmlu, gsm8k)
Writes MANIFEST.json and *.z / *.json / *.model, beside itself unless told otherwise. Same inputs and versions give the
same files, except the date.
"""
import argparse
import base64
import datetime
import importlib.metadata
import json
import pathlib
import random
import struct
import sys
import zlib

import tiktoken
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import template_cases
import text_lines

out_dir = pathlib.Path(__file__).resolve().parent  # --out changes it
SEED, LINE_COUNT, SEQUENCE_COUNT = 20251125, 20000, 2000
SWEEP_BLOCKS = 0x110000 // 256

KIMI_UPPER = r'[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]'
KIMI_LOWER = r'[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]'
KIMI_TAIL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
KIMI_PATTERN = '|'.join([
    r'[\p{Han}]+', r'[^\r\n\p{L}\p{N}]?' + KIMI_UPPER + '*' + KIMI_LOWER + '+' + KIMI_TAIL,
    r'[^\r\n\p{L}\p{N}]?' + KIMI_UPPER + '+' + KIMI_LOWER + '*' + KIMI_TAIL, r'\p{N}{1,3}', r' ?[^\s\p{L}\p{N}]+[\r\n]*',
    r'\s*[\r\n]+', r'\s+(?!\S)', r'\s+'])

# DeepSeek-V2's and the coder model's splits (the letters of V2's word split as ranges of code points).
CASED = ('A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d'
         '\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5'
         '\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d'
         '\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb'
         '\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134'
         '\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b'
         '\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f'
         '\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943')
CJK = '[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+'
OLDER_SPLITS = {
    'deepseek-llm': ['[\r\n]', r'\s?[' + CASED + ']+', r'\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+', r'\s+$', CJK],
    'deepseek-coder': ['[\r\n]', r'\s?\p{L}+', r'\s?\p{P}+', CJK],
}


def crc(ids):
    return zlib.crc32(struct.pack(f'<{len(ids)}i', *ids))


def write_packed(name, data):
    (out_dir / name).write_bytes(zlib.compress(data, 9))


def write_crcs(name, crcs):
    write_packed(name, struct.pack(f'<{len(crcs)}I', *crcs))


def write_lines(lines):
    data = struct.pack('<I', len(lines))
    for line in lines:
        raw = line.encode()
        data += struct.pack('<I', len(raw)) + raw
    write_packed('lines.z', data)


def v3_pre_tokenizer():
    splits = [r'\p{N}{1,3}', '[一-龥\u3040-\u309f\u30a0-\u30ff]+',
              '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*'
              '|\\s*[\r\n]+|\\s+(?!\\S)|\\s+']
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(s), 'isolated') for s in splits]
                                   + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train(pre, vocab_size, corpus):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    made.train_from_iterator(corpus, trainer)
    return made


def corpus(data_dir, lines):
    texts = lines[::5] + [p.read_text() for p in sorted((data_dir / 'mmlu/dev').glob('*.csv'))]
    return texts + [(data_dir / 'gsm8k/test.jsonl').read_text()[:200000]]


def make_small_v3(data_dir, lines):
    small = train(v3_pre_tokenizer(), 3000, corpus(data_dir, lines))
    small.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ['<s>', '</s>', '<｜end▁of▁sentence｜>']])
    small.add_special_tokens([AddedToken('<mask>', special=True, lstrip=True, normalized=False),
                              AddedToken('<pad>', special=True, rstrip=True, normalized=False)])
    small.add_tokens([AddedToken(t, normalized=True) for t in ['<｜User｜>', '<｜Assistant｜>', '<mask>x', '<ma']])
    (out_dir / 'small_v3').mkdir(exist_ok=True)
    text = json.dumps(json.loads(small.to_str()), ensure_ascii=False, separators=(',', ':'))
    (out_dir / 'small_v3/tokenizer.json').write_text(text)
    config = {'add_bos_token': True, 'bos_token': {'__type': 'AddedToken', 'content': '<s>'},
              'eos_token': '<｜end▁of▁sentence｜>', 'pad_token': None, 'chat_template': '{{ bos_token }}{{ messages[0].content }}'}
    (out_dir / 'small_v3/tokenizer_config.json').write_text(json.dumps(config, ensure_ascii=False, indent=1))
    return small


def without_added(tokenizer):
    """The same vocabulary without added tokens: what EncodeOptions.parse_special = false must give."""
    j = json.loads(tokenizer.to_str())
    j['added_tokens'] = []
    return Tokenizer.from_str(json.dumps(j))


def encode(tokenizer, texts):
    return [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


def random_sequences(vocab_ids):
    """Id sequences no text gives: cut characters, stray bytes, specials in between."""
    rng = random.Random(SEED + 1)
    return [[rng.choice(vocab_ids) for _ in range(rng.randint(1, 24))] for _ in range(SEQUENCE_COUNT)]


def write_sequences(prefix, sequences, decode):
    """Ids, then crc of decode(ids) and of decode(ids, skipping specials)."""
    data = struct.pack('<I', len(sequences))
    for ids in sequences:
        data += struct.pack(f'<I{len(ids)}i', len(ids), *ids)
        data += struct.pack('<II', zlib.crc32(decode(ids, False).encode()), zlib.crc32(decode(ids, True).encode()))
    write_packed(prefix + '.sequences.z', data)


def hf_goldens(prefix, tokenizer, lines):
    marked, plain = encode(tokenizer, lines), encode(without_added(tokenizer), lines)
    write_crcs(prefix + '.lines.z', [crc(ids) for ids in marked])
    write_crcs(prefix + '.plain.z', [crc(a) ^ crc(b) for a, b in zip(marked, plain)])
    sweep = encode(tokenizer, [text_lines.sweep_text(b) for b in range(SWEEP_BLOCKS)])
    write_crcs(prefix + '.sweep.z', [crc(ids) for ids in sweep])
    for line, ids in zip(lines, marked):
        if not any(s in line for s in ('<mask>', '<pad>')):  # they swallow spaces
            assert tokenizer.decode(ids, skip_special_tokens=False) == line
    ids = sorted(tokenizer.get_vocab().values())
    # A third of the ids from the low end, where the single bytes are.
    write_sequences(prefix, random_sequences(ids + ids[:300] * (len(ids) // 600)),
                    lambda s, skip: tokenizer.decode(s, skip_special_tokens=skip))


def older_goldens(small, lines):
    for name, patterns in OLDER_SPLITS.items():
        j = json.loads(small.to_str())
        j['pre_tokenizer'] = {'type': 'Sequence', 'pretokenizers': [
            {'type': 'Split', 'pattern': {'Regex': p}, 'behavior': 'Isolated', 'invert': False} for p in patterns] + [
            {'type': 'Digits', 'individual_digits': True},
            {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': False}]}
        other = without_added(Tokenizer.from_str(json.dumps(j)))
        write_crcs(f'small_{name}.plain.z', [crc(ids) for ids in encode(other, lines)])
        sweep = encode(other, [text_lines.sweep_text(b) for b in range(SWEEP_BLOCKS)])
        write_crcs(f'small_{name}.sweep.z', [crc(ids) for ids in sweep])


def make_small_kimi(data_dir, lines):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(KIMI_PATTERN), 'isolated'),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trained = train(pre, 2300, corpus(data_dir, lines))
    alphabet = {c: b for b, c in byte_alphabet().items()}
    raw = {i: bytes(alphabet[c] for c in t) for t, i in trained.get_vocab().items()}
    # tiktoken's ranks: single bytes first, then in the order of the merges, which is the order of the trained ids.
    order = sorted(raw, key=lambda i: (len(raw[i]) > 1, i))
    ranks = {raw[i]: rank for rank, i in enumerate(order)}
    folder = out_dir / 'small_kimi'
    folder.mkdir(exist_ok=True)
    (folder / 'tiktoken.model').write_text(
        ''.join(f'{base64.b64encode(t).decode()} {r}\n' for t, r in sorted(ranks.items(), key=lambda x: x[1])))
    base = len(ranks)
    names = {base: '[BOS]', base + 1: '[EOS]', base + 2: '<|im_end|>', base + 3: '<|im_user|>', base + 4: '<|im_middle|>',
             base + 255: '[PAD]'}
    config = {'added_tokens_decoder': {str(i): {'content': n, 'special': True} for i, n in names.items()},
              'bos_token': '[BOS]', 'eos_token': '[EOS]', 'pad_token': '[PAD]'}
    (folder / 'tokenizer_config.json').write_text(json.dumps(config, indent=1))
    specials = {names.get(i, f'<|reserved_token_{i}|>'): i for i in range(base, base + 256)}
    return tiktoken.Encoding('small_kimi', pat_str=KIMI_PATTERN, mergeable_ranks=ranks, special_tokens=specials)


def byte_alphabet():
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    rest = [b for b in range(256) if b not in keep]
    return {**{b: chr(b) for b in keep}, **{b: chr(256 + n) for n, b in enumerate(rest)}}


def kimi_goldens(kimi, lines):
    marked = [kimi.encode(t, allowed_special='all') for t in lines]
    plain = [kimi.encode(t, disallowed_special=()) for t in lines]
    write_crcs('small_kimi.lines.z', [crc(ids) for ids in marked])
    write_crcs('small_kimi.plain.z', [crc(a) ^ crc(b) for a, b in zip(marked, plain)])
    sweep = [kimi.encode(text_lines.sweep_text(b), disallowed_special=()) for b in range(SWEEP_BLOCKS)]
    write_crcs('small_kimi.sweep.z', [crc(ids) for ids in sweep])


def file_goldens(data_dir, v3):
    """Whole files of the project's data, each as one text: a long, natural test that costs a few bytes per file."""
    rows = []
    paths = sorted((data_dir / 'mmlu/test').glob('*.csv')) + [data_dir / 'gsm8k/test.jsonl', data_dir / 'mmlu_pro/test.jsonl']
    for path in paths:
        if path.exists():
            ids = v3.encode(path.read_bytes().decode(), add_special_tokens=False).ids
            rows.append({'path': str(path.relative_to(data_dir)), 'ids': len(ids), 'crc32': crc(ids)})
    (out_dir / 'deepseek_v3.files.json').write_text(json.dumps(rows, indent=1) + '\n')


def manifest(data_dir):
    packages = ['tokenizers', 'tiktoken', 'jinja2', 'transformers']
    made = {str(p.relative_to(out_dir)): p.stat().st_size for p in sorted(out_dir.rglob('*')) if p.suffix in ('.z', '.json', '.model') and p.name != 'MANIFEST.json'}
    return {'command': 'python make_text_goldens.py DATA_DIR', 'date': datetime.date.today().isoformat(),
            'python': sys.version.split()[0], 'packages': {p: importlib.metadata.version(p) for p in packages},
            'seed': SEED, 'lines': LINE_COUNT, 'sequences': SEQUENCE_COUNT,
            'tokenizer_deepseek_v3_crc32': zlib.crc32((data_dir / 'tokenizer_deepseek_v3/tokenizer.json').read_bytes()),
            'files': made,
            'formats': {'lines.z': 'zlib: u32 count, then per line u32 bytes and UTF-8',
                        '*.lines.z': 'zlib: per line u32 crc32 of the ids as little-endian int32',
                        '*.plain.z': 'the same without added tokens, xor the value of *.lines.z (older splits: plain crc32)',
                        '*.sweep.z': 'per block of 256 code points the crc32 of the ids of sweep_text(block)',
                        '*.sequences.z': 'u32 count, per sequence u32 n, n ids, crc32 of its text, crc32 without specials'}}


def main():
    global out_dir
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('data_dir', type=pathlib.Path, help='the folder with tokenizer_deepseek_v3, mmlu, gsm8k')
    parser.add_argument('--out', type=pathlib.Path, default=out_dir, help='folder to write to')
    parser.add_argument('--templates-only', action='store_true', help='only templates.json')
    args = parser.parse_args()
    data_dir, out_dir = args.data_dir, args.out
    out_dir.mkdir(parents=True, exist_ok=True)
    if not args.templates_only:
        lines = text_lines.lines(SEED, LINE_COUNT)
        write_lines(lines)
        v3 = Tokenizer.from_file(str(data_dir / 'tokenizer_deepseek_v3/tokenizer.json'))
        hf_goldens('deepseek_v3', v3, lines)
        file_goldens(data_dir, v3)
        small = make_small_v3(data_dir, lines)
        hf_goldens('small_v3', small, lines)
        older_goldens(small, lines)
        kimi_goldens(make_small_kimi(data_dir, lines), lines)
    config = json.loads((data_dir / 'tokenizer_deepseek_v3/tokenizer_config.json').read_text())
    cases = template_cases.render_all(config['chat_template'])
    (out_dir / 'templates.json').write_text(json.dumps(cases, ensure_ascii=False, indent=1) + '\n')
    (out_dir / 'MANIFEST.json').write_text(json.dumps(manifest(data_dir), indent=1) + '\n')


if __name__ == '__main__':
    main()
