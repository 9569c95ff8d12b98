"""Merging folders of 100M parameters: `rlx stage=merge` against mergekit, whole commands in turn.

python scripts/bench/merge.py [--models 2,8] [--methods linear,slerp,task_arithmetic,ties,dare,model_stock]
                              [--layers 12] [--dtype float32] [--repeats 3]

Folders are Llamas as transformers saves them, a base and models that differ from it by normal noise, with a tokenizer.
Both sides read the same ones, on the same threads, and write one file. `wall_s` is the time of the whole command
(median of the repeats), start of Python included, with both sides' bytecode there. rlx names foreign folders by what
they hold: sums of all files are part of its time. Memory is that of one more command, which nobody times: `peak_mb` is
the largest resident set (VmHWM), `own_mb` the largest part of it that is no mapped file (RssAnon), both looked at every
10 ms. mergekit maps its inputs, whose pages the system can take back: `own_mb` is the kinder number to it. `differs` is
the largest difference between the two results over the largest weight, where nothing is drawn; the rules are the same,
but for ties and model_stock in projections that rlx holds in one tensor and mergekit in several.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import _results

RULES: dict[str, dict[str, Any]] = {
    "linear": {"rlx": [], "theirs": {"merge_method": "linear"}},
    "slerp": {"rlx": ["merge.weight=0.5"], "theirs": {"merge_method": "slerp", "parameters": {"t": 0.5}}},
    "task_arithmetic": {
        "rlx": ["merge.scale=0.5"],
        "theirs": {"merge_method": "task_arithmetic", "parameters": {"weight": 0.5}},
    },
    "ties": {
        "rlx": ["merge.density=0.2"],
        "theirs": {"merge_method": "ties", "parameters": {"weight": 1.0, "density": 0.2}},
    },
    "dare": {
        "rlx": ["merge.density=0.5"],
        "theirs": {"merge_method": "dare_linear", "parameters": {"weight": 1.0, "density": 0.5}},
    },
    "model_stock": {"rlx": [], "theirs": {"merge_method": "model_stock"}},
}
"""By merge= option: its arguments, and mergekit's configuration for the same rule."""
BASED = ("task_arithmetic", "ties", "dare", "model_stock")


def make_folders(home: Path, count: int, layers: int, dtype: str) -> list[Path]:
    """A base, and models around it."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16384, hidden_size=768, intermediate_size=2048, num_hidden_layers=layers, num_attention_heads=12,
        num_key_value_heads=12, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{n}": n + 3 for n in range(100)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")), bos_token="<s>", eos_token="</s>",
        unk_token="<unk>",
    )  # fmt: skip
    folders = []
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for number in range(count + 1):
        if number:
            noise = {name: torch.randn_like(tensor) * 0.002 for name, tensor in base.items()}
            noise["lm_head.weight"] = noise["model.embed_tokens.weight"]
            model.load_state_dict({name: tensor + noise[name] for name, tensor in base.items()})
        folders.append(home / ("base" if number == 0 else f"model{number}"))
        model.save_pretrained(folders[-1])
        tokenizer.save_pretrained(folders[-1])
    return folders


def timed(command: list[str], cwd: Path, threads: int) -> float:
    """Seconds of one command.

    Raises:
        SystemExit: it fails.
    """
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=cwd, env=environment(cwd, threads), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wall = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout.decode()[-3000:]}")
    return wall


def environment(cwd: Path, threads: int) -> dict[str, str]:
    """For both sides: bytecode is kept, whatever the caller's environment says."""
    own = {"OMP_NUM_THREADS": str(threads), "RLX_CACHE": str(cwd / "cache"), "PYTHONPYCACHEPREFIX": str(cwd / "code")}
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | own


def watched(command: list[str], cwd: Path, threads: int) -> dict[str, float]:
    """Memory of one command; looking at it slows it down.

    Raises:
        SystemExit: it fails.
    """
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(cwd, threads), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    seen = {"VmHWM": 0, "RssAnon": 0}

    def watch() -> None:
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                return
            for line in lines:
                name, _, rest = line.partition(":")
                if name in seen:
                    seen[name] = max(seen[name], int(rest.split()[0]))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stdout is not None
    out = process.stdout.read()
    process.wait()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{out.decode()[-3000:]}")
    return {"peak_mb": seen["VmHWM"] / 1024, "own_mb": seen["RssAnon"] / 1024}


def ours(method: str, folders: list[Path], home: Path) -> tuple[list[str], Any]:
    """The command, and how its result is found."""
    base, *models = folders
    shutil.rmtree(home / "runs", ignore_errors=True)
    arguments = [
        "stage=merge", f"merge={method}", f"merge.models=[{','.join(f'hf:{model.name}' for model in models)}]",
        *RULES[method]["rlx"], *([f"merge.base=hf:{base.name}"] if method in BASED else []), "logger=local",
    ]  # fmt: skip
    return [sys.executable, "-m", "rlx.cli", *arguments], lambda: next(home.glob("runs/*/*/checkpoints/step-*"))


def theirs(method: str, folders: list[Path], home: Path, dtype: str) -> tuple[list[str], Any]:
    """The same of mergekit."""
    base, *models = folders
    out = home / "theirs"
    shutil.rmtree(out, ignore_errors=True)
    rule = dict(RULES[method]["theirs"])
    parameters = rule.pop("parameters", {})
    config: dict[str, Any] = {**rule, "dtype": "float32", "out_dtype": dtype}
    if method == "slerp":
        config |= {"base_model": str(models[0]), "models": [{"model": str(each)} for each in models]}
        config["parameters"] = parameters
    else:
        default = {"weight": 1.0} if method == "linear" else {}
        own = {"parameters": {**default, **parameters}} if method != "model_stock" else {}
        config["models"] = [{"model": str(each), **own} for each in models]
        if method in BASED:
            config["base_model"] = str(base)
    (home / "config.yaml").write_text(json.dumps(config))
    return [
        str(Path(sys.executable).with_name("mergekit-yaml")), "config.yaml", str(out), "--quiet",
        "--no-write-model-card", "--random-seed", "0",
    ], lambda: out  # fmt: skip


def difference(one: Path, other: Path) -> float:
    """The largest difference between two folders' models, over the largest weight."""
    import torch

    from rlx.models.folder import weights_of
    from rlx.stages.start import load_start

    first, second = (weights_of(load_start(folder).model) for folder in (one, other))
    largest = max(tensor.abs().max() for tensor in second.values())
    with torch.no_grad():
        return float(max((first[name] - second[name]).abs().max() for name in second) / largest)


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def counted(text: str) -> list[int]:
    """Numbers of models, at least 2 each, for argparse."""
    if not all(part.isdecimal() and int(part) > 1 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers of at least 2, as in 2,8")
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=counted, default=[2, 8])
    parser.add_argument("--methods", default=",".join(RULES))
    parser.add_argument("--layers", type=positive, default=12)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--home", help="where the folders are made; a temporary folder unless given")
    chosen = parser.parse_args()
    counts, methods, rows = chosen.models, chosen.methods.split(","), []
    if unknown := [method for method in methods if method not in RULES]:
        parser.error(f"--methods {','.join(unknown)}: expected some of {','.join(RULES)}")
    if methods == ["slerp"] and 2 not in counts:
        parser.error("slerp is compared with two models: --models 2")
    if chosen.home is not None and not Path(chosen.home).is_dir():
        parser.error(f"--home {chosen.home} is no folder")
    settings = {name: getattr(chosen, name) for name in ("layers", "dtype", "threads", "repeats")}
    with tempfile.TemporaryDirectory(dir=chosen.home) as folder:
        home = Path(folder)
        folders = make_folders(home, max(counts), chosen.layers, chosen.dtype)
        size = sum(path.stat().st_size for path in folders[0].glob("*.safetensors"))
        print(f"folders of {size / 2**20:.0f} MiB, {chosen.dtype}, {chosen.threads} threads", flush=True)
        for count in counts:
            for method in methods:
                if method == "slerp" and count != 2:
                    continue
                found = compared(method, folders[: count + 1], home, chosen)
                print(_results.table(found), flush=True)
                _results.append("merge", found, **settings, mib=size / 2**20)
                rows += found
    print(_results.table(rows))


def compared(method: str, folders: list[Path], home: Path, chosen: Any) -> list[dict[str, Any]]:
    """Both sides in turn, medians of the repeats."""
    times: dict[str, list[float]] = {"rlx": [], "mergekit": []}
    memory: dict[str, dict[str, float]] = {}
    places: dict[str, Path] = {}
    for repeat in range(1 + chosen.repeats):
        for side in times:
            made = ours(method, folders, home) if side == "rlx" else theirs(method, folders, home, chosen.dtype)
            command, result = made
            if repeat == 0:  # it writes the bytecode, too
                memory[side] = watched(command, home, chosen.threads)
            else:
                times[side].append(timed(command, home, chosen.threads))
            places[side] = result()
    count = len(folders) - 1
    rows = [
        {"models": count, "method": method, "side": side, "wall_s": statistics.median(times[side]), **memory[side]}
        for side in times
    ]
    for name in ("wall_s", "peak_mb", "own_mb"):
        rows[0][f"{name.split('_')[0]} ratio"] = rows[0][name] / rows[1][name]
    if method != "dare":
        rows[0]["differs"] = difference(places["rlx"], places["mergekit"])
    return rows


if __name__ == "__main__":
    main()
