"""`python -m bench load`: seconds and new memory for loading a checkpoint, each time in a separate process.

New memory is the peak of the anonymous pages that loading adds, sampled from /proc every few milliseconds
(Linux); pages of the file itself, which the system can drop at any time, are not counted.
"""
# diffusers may not be installed, and its own annotations are narrower than what it accepts
# pyright: reportMissingImports=false, reportPrivateImportUsage=false, reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

import weights
from bench.models import SIZES, diffusers_pipeline, has_diffusers, random_model
from bench.timing import compare, machine
from ldm import InputError
from weights import compvis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--size", choices=SIZES, default="text2img-large")
    parser.add_argument("--file-dtype", choices=["float32", "float16", "bfloat16"], default="float16")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32",
                        help="dtype to load into")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--folder", default=None,
                        help="where to write the checkpoints (default: the system's temporary folder)")


def main(args: argparse.Namespace) -> None:
    """The command."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        sources = _write(Path(folder).resolve(), args)
        print(machine("cpu"))
        print(f"{args.size}, {args.file_dtype} file into {args.dtype}; "
              "seconds, with the file in the system's cache")
        peaks: dict[str, list[float]] = {name: [] for name in sources}

        def measure(name: str) -> float:
            done = subprocess.run([sys.executable, "-m", "bench.load", *sources[name], args.dtype],
                                  capture_output=True, text=True, cwd=Path(__file__).parents[1])
            if done.returncode:
                said = done.stderr.strip().splitlines()
                raise InputError(f"loading with {name} exited with status {done.returncode}: "
                                 f"{said[-1] if said else 'no output'}")
            result = json.loads(done.stdout.splitlines()[-1])
            peaks[name].append(result["peak"] / result["weights"])
            return result["seconds"]

        compare({name: lambda name=name: measure(name) for name in sources}, args.pairs)
    print("peak new memory / bytes of the weights loaded")
    for name, values in peaks.items():
        print(f"  {name:28s} {max(values):.3f}")


def _write(folder: Path, args: argparse.Namespace) -> dict[str, list[str]]:
    """Write the same random weights in every layout; return the loader and the path for each."""
    model = random_model(args.size, "cpu", getattr(torch, args.file_dtype))
    weights.save(model, folder / "model.safetensors")
    torch.save({"state_dict": {compvis.file_key(key, model.config): value
                               for key, value in model.state_dict().items()}}, folder / "model.ckpt")
    sources = {"this project, .safetensors": ["ours", str(folder / "model.safetensors")],
               "this project, .ckpt": ["ours", str(folder / "model.ckpt")]}
    if has_diffusers(model.config):
        diffusers_pipeline(model).save_pretrained(folder / "huggingface")
        sources["this project, Hugging Face"] = ["ours", str(folder / "huggingface")]
        sources["diffusers"] = ["diffusers", str(folder / "huggingface")]
    else:
        print("diffusers is not installed, or not compared on this model: only this project is timed")
    return sources


def _anonymous() -> int:
    """Bytes of this process's memory that are not backed by a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not report RssAnon")


def _measured_load(loader: str, source: str, dtype: torch.dtype) -> dict[str, float]:
    if loader == "diffusers":
        from diffusers import LDMTextToImagePipeline
        from transformers import BertTokenizer  # noqa: F401  (its import is not part of loading)
    else:
        import weights.huggingface  # noqa: F401
    before, peak, done = _anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _anonymous())

    watcher = threading.Thread(target=watch, daemon=True)          # a failure ends the process
    watcher.start()
    start = time.perf_counter()
    if loader == "diffusers":
        pipeline = LDMTextToImagePipeline.from_pretrained(source, torch_dtype=dtype)
        modules = [pipeline.unet, pipeline.vqvae, pipeline.bert]
    else:
        modules = [weights.load(source, dtype=dtype)]
    elapsed = time.perf_counter() - start
    done.set()
    watcher.join()
    size = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
    return {"seconds": elapsed, "peak": max(peak, _anonymous()) - before, "weights": size}


if __name__ == "__main__":      # one measurement, in the subprocess that `main` starts
    print(json.dumps(_measured_load(sys.argv[1], sys.argv[2], getattr(torch, sys.argv[3]))))
