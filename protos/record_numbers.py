"""Record every field and enum number that was ever used, so that none is given a second meaning.

Reads protos/**/*.proto and merges what it finds into protos/numbers.txt, one ``<message or enum> <number> <name>`` a
line, sorted. Lines never leave the file: a removed field must stay `reserved` in its message, which a test checks.
``--check FILE`` writes elsewhere, for comparing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorSet

FOLDER = Path(__file__).resolve().parent
RECORD = FOLDER / "numbers.txt"

Entry = tuple[str, int, str]


def descriptors() -> FileDescriptorSet:
    """Everything under protos/, compiled, with its comments."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "set.binpb")
        files = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.proto"))
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--include_source_info"]
        subprocess.run([*command, f"--descriptor_set_out={output}", *files], cwd=FOLDER, check=True)
        return FileDescriptorSet.FromString(output.read_bytes())


def numbers(compiled: FileDescriptorSet) -> set[Entry]:
    """Every field and enum value in use, as (full name of its message or enum, number, name)."""
    found: set[Entry] = set()
    for file in compiled.file:
        for message in file.message_type:
            found.update(_of_message(message, file.package))
        for enum in file.enum_type:
            found.update(_of_enum(enum, file.package))
    return found


def recorded(path: Path = RECORD) -> set[Entry]:
    """Everything ever used, as `numbers` gives it; empty before the first record."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(owner, int(number), name) for owner, number, name in (line.split() for line in lines)}


def _of_message(message: DescriptorProto, scope: str) -> Iterator[Entry]:
    owner = f"{scope}.{message.name}"
    yield from ((owner, field.number, field.name) for field in message.field)
    for nested in message.nested_type:
        yield from _of_message(nested, owner)
    for enum in message.enum_type:
        yield from _of_enum(enum, owner)


def _of_enum(enum: EnumDescriptorProto, scope: str) -> Iterator[Entry]:
    return ((f"{scope}.{enum.name}", value.number, value.name) for value in enum.value)


def main() -> None:
    """Merge what the protos use now into the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", type=Path, metavar="FILE", help="write the merged record here instead")
    target = parser.parse_args().check or RECORD
    merged = sorted(recorded() | numbers(descriptors()))
    target.write_text("".join(f"{owner} {number} {name}\n" for owner, number, name in merged))


if __name__ == "__main__":
    main()
