"""What the GPU will run, read from built objects: no disassembler and no compilation, only the ELF images inside.

nvcc leaves one cubin per target in an object's fat binary. A cubin has a section `.text.<kernel>` of 16-byte
instructions for each kernel, and `.nv.info` attributes with the registers and the local memory it was given.
"""

import collections
import re
import struct

EM_CUDA = 190
FATBIN_MAGIC = 0xBA55ED50
FATBIN_ELF, FATBIN_COMPRESSED = 2, 0x2000 | 0x8000  # kind of an entry; its flags: LZ4, zstd
INSTRUCTION_BYTES = 16

# Attributes of .nv.info: a byte of format, a byte of kind, then a 16-bit value or the length of what follows.
FORMAT_NONE, FORMAT_BYTE, FORMAT_HALF, FORMAT_SIZED = 1, 2, 3, 4
ATTRIBUTE_MAX_THREADS, ATTRIBUTE_FRAME_SIZE, ATTRIBUTE_REQUIRED_THREADS, ATTRIBUTE_REGISTERS = 0x05, 0x11, 0x10, 0x2F

# The low 12 bits of an instruction, sm_80 to sm_90 (each confirmed against nvdisasm 13.1).
OPCODES = {
    0x223: "FFMA", 0x308: "MUFU", 0x23C: "HMMA", 0x237: "IMMA", 0x9F0: "HGMMA", 0xDF0: "HGMMA", 0x9F3: "QGMMA",
    0xDF3: "QGMMA", 0x5B4: "UTMALDG", 0x983: "LDL", 0x387: "STL", 0x981: "LDG", 0x986: "STG", 0x984: "LDS",
    0x388: "STS", 0x83B: "LDSM", 0xFAE: "LDGSTS",
}


class BadObject(Exception):
    """An object that cannot be read as expected: one sentence."""


class Kernel:
    """One kernel for one target."""

    def __init__(self, symbol, target):
        self.symbol = symbol
        self.target = target  # "sm_80", "sm_90a"
        self.registers = 0
        self.frame_bytes = 0  # local memory of a thread
        self.threads_max = 0  # of __launch_bounds__; 0 without
        self.instructions = collections.Counter()  # name or 0x..., count

    @property
    def name(self):
        return readable(self.symbol)


def readable(symbol):
    """A mangled kernel as `OuterKernel<...>`: its last name, and its template arguments as they are mangled."""
    rest = symbol.removeprefix("_ZN") if symbol.startswith("_ZN") else symbol.removeprefix("_Z")
    name = ""
    while match := re.match(r"\d+", rest):
        length = int(match.group())
        name, rest = rest[match.end():match.end() + length], rest[match.end() + length:]
    arguments = re.match(r"I(.*?)E*v", rest)
    return f"{name}<{arguments.group(1)}>" if arguments else name or symbol


def fat_binaries(data):
    """(offset, size) of each entry that holds an ELF image."""
    at = data.find(struct.pack("<I", FATBIN_MAGIC))
    while at >= 0:
        header_bytes, body_bytes = struct.unpack_from("<HQ", data, at + 6)
        entry, end = at + header_bytes, at + header_bytes + body_bytes
        while entry < end:
            kind, _, entry_header, size = struct.unpack_from("<HHIQ", data, entry)
            flags, = struct.unpack_from("<Q", data, entry + 40)
            if flags & FATBIN_COMPRESSED:
                raise BadObject("its fat binary is compressed: build without -Xfatbin=-compress-all")
            if kind == FATBIN_ELF:
                yield entry + entry_header, size
            entry += entry_header + size
        at = data.find(struct.pack("<I", FATBIN_MAGIC), max(end, at + 4))


class Cubin:
    """One ELF image: sections by name, symbols by number."""

    def __init__(self, image):
        self.image = image
        if image[:4] != b"\x7fELF" or struct.unpack_from("<H", image, 18)[0] != EM_CUDA:
            raise BadObject("a fat binary's entry is no CUDA ELF image")
        offset, = struct.unpack_from("<Q", image, 40)
        size, count, names = struct.unpack_from("<HHH", image, 58)
        headers = [struct.unpack_from("<IIQQQQIIQQ", image, offset + i * size) for i in range(count)]
        strings = headers[names][4]
        self.sections = {self._text(strings + h[0]): h for h in headers}
        self.target = self._target()

    def _target(self):
        """From ptxas's own note of how it was called: the ELF flags do not tell sm_90a from sm_90."""
        note = self.bytes_of(".note.nv.tkinfo") if ".note.nv.tkinfo" in self.sections else b""
        match = re.search(rb"-arch (sm_\d+a?)", note)
        if not match:
            raise BadObject("a cubin does not say for which target it was made")
        return match.group(1).decode()

    def _text(self, at):
        return self.image[at:self.image.index(b"\0", at)].decode()

    def bytes_of(self, name):
        header = self.sections[name]
        return self.image[header[4]:header[4] + header[5]]

    def symbol_name(self, index):
        entry, = struct.unpack_from("<I", self.bytes_of(".symtab"), index * 24)
        return self._text(self.sections[".strtab"][4] + entry)

    def attributes(self, section):
        """(kind, value or bytes) of an .nv.info section."""
        data, at = self.bytes_of(section), 0
        while at + 4 <= len(data):
            form, kind, value = struct.unpack_from("<BBH", data, at)
            at += 4
            if form == FORMAT_SIZED:
                yield kind, data[at:at + value]
                at += value
            elif form in (FORMAT_NONE, FORMAT_BYTE, FORMAT_HALF):
                yield kind, value
            else:
                raise BadObject(f"{section} has an attribute of the unknown format {form}")


def kernels_of_cubin(cubin):
    kernels = {name.removeprefix(".text."): Kernel(name.removeprefix(".text."), cubin.target)
               for name in cubin.sections if name.startswith(".text.")}
    for kind, value in cubin.attributes(".nv.info") if ".nv.info" in cubin.sections else ():
        if kind in (ATTRIBUTE_REGISTERS, ATTRIBUTE_FRAME_SIZE):
            index, amount = struct.unpack("<II", value)
            kernel = kernels.get(cubin.symbol_name(index))
            if kernel and kind == ATTRIBUTE_REGISTERS:
                kernel.registers = amount
            elif kernel:
                kernel.frame_bytes = amount
    for symbol, kernel in kernels.items():
        section = f".nv.info.{symbol}"
        for kind, value in cubin.attributes(section) if section in cubin.sections else ():
            if kind in (ATTRIBUTE_MAX_THREADS, ATTRIBUTE_REQUIRED_THREADS):
                x, y, z = struct.unpack("<III", value)
                kernel.threads_max = x * y * z
        code = cubin.bytes_of(f".text.{symbol}")
        for at in range(0, len(code), INSTRUCTION_BYTES):
            opcode = struct.unpack_from("<H", code, at)[0] & 0xFFF
            kernel.instructions[OPCODES.get(opcode, hex(opcode))] += 1
    return list(kernels.values())


def kernels_of(path):
    """Every kernel of every target in an object, archive, program or cubin."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        if data[:4] == b"\x7fELF" and struct.unpack_from("<H", data, 18)[0] == EM_CUDA:
            return kernels_of_cubin(Cubin(data))
        return [kernel for offset, size in fat_binaries(data)
                for kernel in kernels_of_cubin(Cubin(data[offset:offset + size]))]
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise BadObject(f"{path}: not understood: {error!r}") from error
    except BadObject as error:
        raise BadObject(f"{path}: {error}") from None
