"""The lines the tokenizer goldens are made of: deterministic from a seed, varied, and rich in what tokenizers trip over."""
import random
import unicodedata

SPECIALS = ['<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>', '<｜User｜>', '<｜Assistant｜>', '<｜▁pad▁｜>', '<|EOT|>',
            '<｜tool▁calls▁begin｜>', '<｜fim▁hole｜>', '<s>', '</s>', '<mask>', '<pad>', '<mask>x', '<|im_end|>', '[BOS]',
            '[EOS]', '<|im_user|>', '<|im_middle|>', '<|reserved_token_2300|>', '<｜User', '<|', '｜>', '<mas', '<ma<mask>']
SPACES = [' ', '  ', '   ', '\t', '\n', '\r\n', '\r', '\n\n', ' \n', '\n ', '\t ', '\u00a0', '\u3000', '\u180e', '\ufeff',
          '\u2028', '\u2029', '\u0085', '\u200b', '\u2003', '\x0b', '\x0c', '\x1c', '\x1f', '\u202f', '\u1680', '\u205f']
WORDS = ('the of and to in is that it was for on are as with his they at be this from have or by one had not but what all '
         'were when we there can an your which their said if do will each about how up out them then she many some so these '
         "would other into has more her two like him see time could no make than first been its who now people my made over "
         "I'm you're can't we've they'd he'll IT'S DON'T Model expert Router attention softmax Layer norm don’t naïve café "
         'façade Ünïcödé straße ΑΒΓ αβγ Москва привет Ελλάδα مرحبا שלום नमस्ते ไทย ภาษา Việt İstanbul ǅ ǲ ﬁn ꙮ').split()
CODE = ['def f(x):\n    return x ** 2 + 1\n', 'for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n', '#include <vector>\n',
        'std::vector<std::pair<int, float>> v{{1, 2.5f}};', 'if __name__ == "__main__":\r\n    main()\r\n', 'x = {"a": [1, 2]}',
        '    // comment\n\n\n', 'SELECT * FROM t WHERE id >= 100;', '<div class="a">&nbsp;</div>', '\\begin{equation} x^2 \\end{equation}',
        'let y = |a: &str| -> u32 { 0xFFu32 };', 'printf("%d\\n", 0b1010);', '$ git log --oneline | head -n 3', '@decorator', '$HOME/.cfg',
        'camelCase snake_case SCREAMING_CASE kebab-case HTTPServer2XMLParser', 'a+=1;b-=2;c*=3', '"""doc"""', "f'{x!r:>10}'"]
EMOJI = ['👨\u200d👩\u200d👧\u200d👦', '👍🏽', '🏳️\u200d🌈', '🇨🇳🇺🇸', '❤️', '☺', '🧑🏿\u200d💻', '😀😃', '1️⃣', '🫠', '🪿', '©', '™', '→', '∑', '≠', '½', '²']
CJK = '的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家十用发天如然作方成者多日都三小军二无同么经法当起与好看学进种将还分此心前面又定见只主没公从'
KANA = 'あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをんアイウエオカキクケコサシスセソタチツテトナニヌネノー・ッャュョ々〻〇'
HANGUL = '가나다라마바사아자차카타파하한국어문장입니다'
CJK_PUNCTUATION = '，。！？、；：“”‘’（）《》【】…—～「」『』　￥％＋'
MARKS = '\u0301\u0308\u0327\u20e3\u0e31\u0e49\u093f\u094d\u05b0\u064e\u3099\ufe0f\u1ab0\u0903\u16ff0\u0897\u1611e'
EDGES = ['\u180e', '\ufeff', '\u200d', '\u200c', '\u00ad', '\ufffd', '\ufffe', '\uffff', '\ue000', '\U0010ffff', '\U0001f6dc', '\U00031350',
         '\U0002ebf0', '\u1c89', '\ua7cb', '\x00', '\x7f', '\x80', '\u0378', '\u3007', '\u3021', '\u2e80', '\u3005', '\u303b', '\U00016ff0',
         '\U00020000', '\uf900', '\u3131', '\u1100', '\u0e33', '\u0149', 'ſ', "'ſ", 'K', "'S", "'LL", "'Re", '’s', 'ʼs', 'ß', 'ẞ', 'İ']


def one_line(rng):
    """A line of one to thirty fragments, each from a random family."""
    kind = rng.random()
    fragments = []
    for _ in range(rng.choice([1, 2, 3, 5, 8, 12, 20])):
        fragments.append(fragment(rng, kind))
    return ''.join(fragments)


def fragment(rng, kind):
    choice = rng.random()
    if kind < 0.35 and choice < 0.7:
        return rng.choice(WORDS) + rng.choice([' ', ' ', ' ', ', ', '. ', '', '-', "'s ", '\n', '? ', '!'])
    if kind < 0.5 and choice < 0.6:
        return rng.choice(CODE)
    if 0.5 <= kind < 0.7 and choice < 0.7:
        alphabet = rng.choice([CJK, CJK, KANA, HANGUL, CJK + KANA, CJK_PUNCTUATION])
        return ''.join(rng.choice(alphabet) for _ in range(rng.randint(1, 8)))
    pick = rng.randrange(14)
    if pick == 0:
        return rng.choice(SPECIALS)
    if pick == 1:
        return rng.choice(SPACES) * rng.randint(1, 3)
    if pick == 2:
        return str(rng.randrange(10 ** rng.randint(1, 14)))
    if pick == 3:
        return rng.choice(['1,234.56', '3.14e-10', '0x1F', '٣٤٥', '१२३', '１２３４', 'Ⅷ', '①②③④', '½⅓', '100%', '$1,000', '𝟘𝟙𝟚𝟛'])
    if pick == 4:
        return rng.choice(EMOJI)
    if pick == 5:
        return rng.choice(WORDS)
    if pick == 6:
        return ''.join(rng.choice('!"#$%&\'()*+,-./:;<=>?@[\\]^_`{|}~') for _ in range(rng.randint(1, 5)))
    if pick == 7:
        return rng.choice(EDGES)
    if pick == 8:
        return rng.choice('aeiounAEK中か가') + ''.join(rng.choice(MARKS) for _ in range(rng.randint(1, 3)))
    if pick == 9:
        return ''.join(chr(rng.randrange(0x20, 0x3000)) for _ in range(rng.randint(1, 4)))
    if pick == 10:
        return ''.join(random_char(rng) for _ in range(rng.randint(1, 4)))
    if pick == 11:
        return rng.choice('aZ9 \n\t中.=あ') * rng.choice([2, 3, 4, 7, 16, 33, 70])
    if pick == 12:
        return rng.choice(CODE)
    return rng.choice(CJK) + rng.choice(CJK_PUNCTUATION) + rng.choice(KANA)


def random_char(rng):
    while True:
        c = chr(rng.choice([rng.randrange(0x20000), rng.randrange(0x110000)]))
        if unicodedata.category(c) != 'Cs':
            return c


def lines(seed, count):
    rng = random.Random(seed)
    fixed = [''] + SPACES + SPECIALS + EDGES + WORDS + CODE + EMOJI
    return fixed + [one_line(rng) for _ in range(count - len(fixed))]


def sweep_text(block):
    """Text of 256 code points, bare and then each between letters; tokenizer_golden_test.cc builds the same."""
    chars = [chr(c) for c in range(block * 256, block * 256 + 256) if not 0xD800 <= c < 0xE000]
    return ''.join(chars) + ''.join(f'a{c}B {c}1' for c in chars)
