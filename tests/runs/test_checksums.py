import shutil
import subprocess

import pytest

from rlx.errors import CheckpointError
from rlx.runs.checksums import check_whole, write_checksums


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "trainer" / "state.pt").write_bytes(b"state")
    write_checksums(tmp_path)
    return tmp_path


def test_what_was_written_is_whole(folder):
    check_whole(folder)
    write_checksums(folder)
    check_whole(folder)
    if shutil.which("sha256sum"):
        assert subprocess.run(["sha256sum", "--status", "-c", "SHA256SUMS"], cwd=folder).returncode == 0


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "trainer/state.pt", "SHA256SUMS"])
@pytest.mark.parametrize("harm", ["cut", "empty", "flipped", "gone"])
def test_any_harm_to_any_file_is_found(folder, name, harm):
    path = folder / name
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:-1], "empty": b"", "flipped": bytes([data[0] ^ 1]) + data[1:]}[harm])
    if name == "SHA256SUMS" and harm == "gone":
        check_whole(folder)  # a folder of other origin
        return
    if name == "SHA256SUMS" and harm == "cut":
        check_whole(folder)  # a newline at the end says nothing
        return
    with pytest.raises(CheckpointError, match=path.name) as error:
        check_whole(folder)
    assert "\n" not in str(error.value)
    if name == "trainer/state.pt":
        check_whole(folder, trainer=False)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "trainer/state.pt"])
def test_a_line_that_is_no_sum_is_damage(folder, name):
    """Else the file that it names would not be looked at."""
    sums = folder / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(f"  {name}", f" {name}"))
    with pytest.raises(CheckpointError, match="SHA256SUMS is damaged"):
        check_whole(folder)


def test_sums_that_are_known_are_not_taken_again(folder):
    write_checksums(folder, {"trainer/state.pt": "0" * 64, "of no file": "1" * 64})
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert f"{'0' * 64}  trainer/state.pt" in lines and len(lines) == 3
    with pytest.raises(CheckpointError, match=r"state.pt is not what was written"):
        check_whole(folder)
