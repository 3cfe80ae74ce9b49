#!/usr/bin/env python3
"""Prints the rows of lib/model/text/unicode_newcomers.h.

For every code point it asks the reference library (tokenizers, whose Oniguruma knows Unicode 16) and the system's PCRE2
(Unicode 14) for membership in the classes the pre-tokenizers use, and groups the code points only the reference knows.
Fails when the two disagree in any other way than "PCRE2 does not know the character yet".
"""
import ctypes

from tokenizers import Regex, pre_tokenizers

UTF, UCP, NO_UTF_CHECK = 0x00080000, 0x00020000, 0x40000000
TEXT = ''.join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)

# Stand-ins of the same category and UTF-8 length; see the header for the choice of ranges.
LOW = {'M': 0x0900, 'P': 0x1B5A, 'S': 0x2426, 'Lu': 0x10C7, 'Ll': 0x1C80}
HIGH = {'Lu': 0xA790, 'Ll': 0xA791}
ASTRAL = {'Lu': 0x1D400, 'Ll': 0x1D41A, 'Lm': 0x16F93, 'Lo': 0x10000, 'Han': 0x20000, 'M': 0x1D165, 'N': 0x1D7CE,
          'P': 0x10100, 'S': 0x1D100}


def reference(pattern):
    split = pre_tokenizers.Split(Regex(pattern), 'removed', invert=True)
    found = set()
    for at in range(0, len(TEXT), 4096):
        for piece, _ in split.pre_tokenize_str(TEXT[at:at + 4096]):
            found.update(map(ord, piece))
    return found


def pcre2(pattern):
    lib = ctypes.CDLL('libpcre2-8.so.0')
    lib.pcre2_compile_8.restype = ctypes.c_void_p
    lib.pcre2_match_data_create_from_pattern_8.restype = ctypes.c_void_p
    lib.pcre2_get_ovector_pointer_8.restype = ctypes.POINTER(ctypes.c_size_t)
    error, where = ctypes.c_int(), ctypes.c_size_t()
    raw = pattern.encode()
    code = ctypes.c_void_p(lib.pcre2_compile_8(raw, ctypes.c_size_t(len(raw)), ctypes.c_uint32(UTF | UCP),
                                               ctypes.byref(error), ctypes.byref(where), None))
    data = ctypes.c_void_p(lib.pcre2_match_data_create_from_pattern_8(code, None))
    bounds = lib.pcre2_get_ovector_pointer_8(data)
    text, at, found = TEXT.encode(), 0, set()
    while lib.pcre2_match_8(code, text, ctypes.c_size_t(len(text)), ctypes.c_size_t(at),
                            ctypes.c_uint32(NO_UTF_CHECK), data, None) >= 0:
        found.update(map(ord, text[bounds[0]:bounds[1]].decode()))
        at = bounds[1]
    return found


def main():
    newcomers = {}
    for name in ['Lu', 'Ll', 'Lt', 'Lm', 'Lo', 'M', 'N', 'P', 'S', 'Han']:
        theirs = reference('\\p{%s}+' % name)
        ours = pcre2('\\p{%s}+' % ('sc:Han' if name == 'Han' else name))
        assert not ours - theirs, name
        for c in theirs - ours:
            newcomers[c] = name
    rows = []
    for c in sorted(newcomers):
        table = ASTRAL if c > 0xFFFF else HIGH if c > 0x4E00 else LOW
        stand_in = table[newcomers[c]]
        if rows and rows[-1][1] == c - 1 and rows[-1][2] == stand_in:
            rows[-1][1] = c
        else:
            rows.append([c, c, stand_in])
    for first, last, stand_in in rows:
        print(f'    {{0x{first:04X}, 0x{last:04X}, 0x{stand_in:04X}}},')


if __name__ == '__main__':
    main()
