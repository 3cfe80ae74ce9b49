"""The source tree as the rules see it: paths relative to the root, texts read once."""

import os
import pathlib

SKIPPED_FOLDERS = {".git", ".venv", "__pycache__", "build", "Testing", "node_modules", ".cache"}
CPP = (".cc", ".h", ".inl", ".cu", ".cuh")


class Tree:
    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.paths = []
        for folder, subfolders, names in os.walk(self.root):
            subfolders[:] = sorted(s for s in subfolders if s not in SKIPPED_FOLDERS)
            base = pathlib.Path(folder).relative_to(self.root)
            self.paths += [(base / name).as_posix() for name in sorted(names)]
        self._texts = {}

    def text(self, path):
        if path not in self._texts:
            self._texts[path] = (self.root / path).read_text(encoding="utf-8", errors="replace")
        return self._texts[path]

    def lines(self, path):
        return self.text(path).split("\n")

    def exists(self, path):
        return (self.root / path).exists()

    def having(self, *endings):
        return [p for p in self.paths if p.endswith(endings)]

    def cpp(self):
        return self.having(*CPP)

    def scripts(self):
        """Python and shell files, and anything that starts with a #! line."""
        return [p for p in self.paths if p.endswith((".py", ".sh")) or self.has_shebang(p)]

    def has_shebang(self, path):
        with open(self.root / path, "rb") as file:
            return file.read(2) == b"#!"

    def is_executable(self, path):
        return os.access(self.root / path, os.X_OK)
